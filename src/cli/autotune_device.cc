// Tuning, the table and its summary.
#include "cli/autotune_device.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "backend/cuda/device.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

std::string entry_line(const model::PathEntry& entry) {
  return fmt::format("{:>5} rows  {:<46} {:9.1f} us  {:<46} {:9.1f} us  {:5.1f} %  {}\n", entry.rows, entry.row->id,
                     entry.us, entry.default_row->id, entry.default_us, 100 * entry.margin(), entry.shape);
}

}  // namespace

int autotune_device(const DeviceTuneOptions& options, bool json) {
  check_device_source(options.source);
  model::PathTuneOptions tune;
  tune.rows = options.rows;
  for (int rows = 1; options.rows.empty() && rows <= 1024; rows *= 2) tune.rows.push_back(rows);
  std::sort(tune.rows.begin(), tune.rows.end());
  tune.rows.erase(std::unique(tune.rows.begin(), tune.rows.end()), tune.rows.end());
  if (options.rounds > 0) tune.rounds = options.rounds;
  if (options.budget_seconds > 0) tune.budget_seconds = options.budget_seconds;
  model::DeviceModelOptions placed = *device_model_options(options.device);
  backend::require_cuda_device(placed.device);
  placed.pass_rows = placed.context = tune.rows.back();
  Progress loading("copying to the device");
  placed.progress = [&](std::int64_t done, std::int64_t total) {
    throw_if_cancelled("copying the model to the device");
    loading.update(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0);
  };
  model::DeviceModel device = make_device_model(options.source, placed);
  loading.clear();
  Progress progress("tuning");
  tune.progress = [&](double share) {
    throw_if_cancelled("tuning");
    progress.update(share);
  };
  bool complete = false;
  model::PathTable table = device.tune_paths(tune, &complete);
  progress.clear();
  table.revision = source_revision();
  table.date = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  const std::string output = options.output.empty() ? "cuda-paths.json" : options.output;
  const std::string text = table.json_text();
  write_text_file(output, text, "--output");
  if (json) {
    print_json({{"output", output},
                {"stop", complete ? "complete" : "out_of_time"},
                {"device", device_json(device)},
                {"model", device_source_json(options.source)},
                {"table", Json::parse(text)}});
  } else {
    for (const model::PathEntry& entry : table.entries) print_text(entry_line(entry));
    print_text(
        fmt::format("{}: {} entries; use it with --device cuda --table {}\n", output, table.entries.size(), output));
  }
  if (!complete) {
    fmt::print(stderr,
               "fairway: note: the budget ended before every path had all its samples; a larger --budget or fewer "
               "--batch-sizes help\n");
  }
  return kExitOk;
}

}  // namespace fairway::cli
