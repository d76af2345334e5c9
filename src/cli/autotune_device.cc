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

constexpr int kMostSequences = 64;  // of a decode step

std::string chain_line(const model::PathChain& chain) {
  return fmt::format("{} rows, {} layers in a chain: {:.1f} us by the rules, {:.1f} us by the table ({:+.1f} %)\n",
                     chain.rows, chain.layers, chain.default_us, chain.us,
                     chain.default_us > 0 ? 100 * (chain.us / chain.default_us - 1) : 0.0);
}

// The path, why, and the best of the others.
std::string entry_line(const model::PathEntry& entry) {
  const model::PathTime* other = nullptr;
  for (const model::PathTime& time : entry.measured) {
    if (time.row != entry.row && (other == nullptr || time.us < other->us)) other = &time;
  }
  const std::string rest =
      other == nullptr ? "all others far behind" : fmt::format("{} {:.1f} us", other->row->path, other->us);
  const std::string what =
      entry.row == entry.default_row ? "default" : fmt::format("instead of {}", entry.default_row->path);
  return fmt::format("  {:<12} {:8.1f} us a call, {} ({}; {})  {} {}\n", entry.row->path, entry.us, what,
                     path_reason_text(entry.reason), rest, entry.row->op, entry.shape);
}

std::string table_text(const model::PathTable& table) {
  std::string text;
  for (const model::PathChain& chain : table.chains) {
    text += chain_line(chain);
    for (const model::PathEntry& entry : table.entries) {
      if (entry.rows == chain.rows) text += entry_line(entry);
    }
  }
  return text;
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
  placed.sequences = 1;
  for (const int rows : tune.rows) {
    if (rows <= kMostSequences) placed.sequences = rows;  // ascending
  }
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
    print_text(table_text(table));
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
