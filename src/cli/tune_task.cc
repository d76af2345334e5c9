// Running a tuning task, and putting what came of it into a table.
#include "cli/tune_task.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>

#include "backend/cpu/thread_pool.h"
#include "cli/bench.h"
#include "cli/selection.h"
#include "cli/signals.h"
#include "cli/tune_layers.h"
#include "select/autotuner.h"

namespace fairway::cli {
namespace {

using select::TunedEntry;

// Powers of two: a lookup takes the nearest entry of at most twice or half the tokens.
const std::vector<int> kBatchSizes = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
const std::vector<int> kQuickBatchSizes = {1, 4, 16, 64, 256};
constexpr double kLeastTuneSeconds = 1;  // even if loading took the budget

struct Profile {
  const char* name;
  const char* geometry;
  std::vector<const char*> tuples;
  std::vector<int> batch_sizes;
};
const Profile kProfiles[] = {
    {"mixed_bpw_fairway_glm47", "glm47", {"6,2,3", "6,3,4", "6,2,4"}, {1, 4, 8, 16, 32, 64}},
};

const select::MeasuredKernel* measured(const TunedEntry& entry, const select::KernelConfig& config) {
  for (const select::MeasuredKernel& kernel : entry.measured) {
    if (kernel.config == config) return &kernel;
  }
  return nullptr;
}

double median_ms(const TunedEntry& entry, const select::KernelConfig& config) {
  const select::MeasuredKernel* kernel = measured(entry, config);
  return kernel == nullptr ? 0 : kernel->median_ms;
}

// Share of the default's time that the chosen kernel saves.
double gain_of(const TunedEntry& entry) {
  const double before = median_ms(entry, entry.fallback);
  return before > 0 ? 1 - median_ms(entry, entry.best) / before : 0;
}

}  // namespace

void fill_defaults(TuneTask& task, bool quick) {
  if (task.batch_sizes.empty()) task.batch_sizes = quick ? kQuickBatchSizes : kBatchSizes;
  if (task.iterations == 0) task.iterations = quick ? 8 : 15;
  if (task.budget_seconds == 0) task.budget_seconds = quick ? kQuickBudgetSeconds : kBudgetSeconds;
  if (quick) task.recorded_tokens = std::min(task.recorded_tokens, 128);
}

std::vector<TuneTask> profile_tasks(const std::string& name) {
  std::string names;
  for (const Profile& profile : kProfiles) {
    names += (names.empty() ? "" : ", ") + std::string(profile.name);
    if (name != profile.name) continue;
    std::vector<TuneTask> tasks;
    const auto add = [&](const std::string& suffix, const std::string& bits) {
      TuneTask& task = tasks.emplace_back();
      task.name = fmt::format("{}-{}", profile.geometry, suffix);
      task.layers.geometry = profile.geometry;
      task.layers.bits = bits;
      task.batch_sizes = profile.batch_sizes;
    };
    for (const char* tuple : profile.tuples) add(tuple, tuple);
    add("mixed", fmt::format("{}", fmt::join(profile.tuples, ";")));
    return tasks;
  }
  throw Error(ErrorKind::kUsage, fmt::format("--profile '{}' does not exist; there are {}", name, names));
}

TuneOutcome run_task(const TuneTask& task, const std::function<void(double, const std::string&)>& progress) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const std::string text = task.text.empty() ? std::string() : read_file(task.text, "--text");
  backend::ThreadPool pool(task.threads);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  const TuneLayers layers(task.layers, text, task.recorded_tokens, context);

  select::TuneOptions options;
  options.warmup = task.warmup;
  options.iterations = task.iterations;
  if (task.budget_seconds > 0) options.budget_seconds = std::max(kLeastTuneSeconds, task.budget_seconds - seconds());
  options.policy = select::make_policy("", "", "");
  options.cancel = &cancel_requested();
  options.progress = [&](int done, int total, const std::string& what) {
    progress(static_cast<double>(done) / total, what);
  };
  select::MixedBPWAutoTuner tuner;
  const auto report = tuner.tune(layers.layers(), task.batch_sizes, options, context);

  TuneOutcome outcome{task, layers.about(), pool.size(), seconds(), report.calls, report.complete, {}, {}};
  for (const TunedEntry* entry : report.entries) {
    outcome.entries.push_back(*entry);
    outcome.weights_from.emplace_back(layers.weights_from(entry->layer, entry->tokens));
  }
  return outcome;
}

std::string outcome_text(const TuneOutcome& outcome) {
  std::size_t name_width = 6, mix_width = 4;
  std::vector<std::string> names;
  for (const TunedEntry& entry : outcome.entries) {
    names.push_back(select::candidate_of(entry.best).name());
    name_width = std::max(name_width, names.back().size());
    mix_width = std::max(mix_width, entry.layer.mix_text().size());
  }
  std::string text = fmt::format("{}: {}; {} threads, {} calls in {:.1f} s\n", outcome.task.name, outcome.about,
                                 outcome.threads, outcome.calls, outcome.seconds);
  text += fmt::format("{:>6} {:<{}} {:<{}} {:>9} {:>10} {:>6} {:>7} weights from\n", "tokens", "bits", mix_width,
                      "kernel", name_width, "ms", "default ms", "gain", "samples");
  for (std::size_t i = 0; i < outcome.entries.size(); ++i) {
    const TunedEntry& entry = outcome.entries[i];
    const select::MeasuredKernel* best = measured(entry, entry.best);
    const std::string gain = entry.best == entry.fallback ? "default" : fmt::format("{:.1f}%", 100 * gain_of(entry));
    text += fmt::format("{:>6} {:<{}} {:<{}} {:>9.3f} {:>10.3f} {:>6} {:>7} {}\n", entry.tokens, entry.layer.mix_text(),
                        mix_width, names[i], name_width, median_ms(entry, entry.best), median_ms(entry, entry.fallback),
                        gain, best == nullptr ? 0 : best->samples_ms.size(), outcome.weights_from[i]);
  }
  return text;
}

Json outcome_json(const TuneOutcome& outcome) {
  Json entries = Json::array();
  for (std::size_t i = 0; i < outcome.entries.size(); ++i) {
    const TunedEntry& entry = outcome.entries[i];
    Json kernels = Json::array();
    for (const select::MeasuredKernel& kernel : entry.measured) {
      kernels.push_back({{"kernel", select::candidate_of(kernel.config).name()},
                         {"ms", kernel.median_ms},
                         {"samples_ms", kernel.samples_ms}});
    }
    entries.push_back({{"tokens", entry.tokens},
                       {"bits", entry.layer.mix_text()},
                       {"activations", entry.activations},
                       {"kernel", select::candidate_of(entry.best).name()},
                       {"ms", median_ms(entry, entry.best)},
                       {"default", select::candidate_of(entry.fallback).name()},
                       {"default_ms", median_ms(entry, entry.fallback)},
                       {"gain", gain_of(entry)},
                       {"weights_from", outcome.weights_from[i]},
                       {"measured", kernels}});
  }
  return {{"name", outcome.task.name},    {"layers", outcome.about}, {"threads", outcome.threads},
          {"seconds", outcome.seconds},   {"calls", outcome.calls},  {"complete", outcome.complete},
          {"entries", std::move(entries)}};
}

std::size_t write_entries(const std::filesystem::path& path, const std::vector<TuneOutcome>& outcomes) {
  std::string why;
  select::TunedTable table = select::TunedTable::load_if_usable(path, why).value_or(select::TunedTable());
  if (!why.empty()) fmt::print(stderr, "fairway: note: {}; it is replaced\n", why);
  table.device = select::this_device_stamp();
  table.revision = source_revision();
  table.date = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  for (const TuneOutcome& outcome : outcomes) {
    for (const TunedEntry& entry : outcome.entries) {
      table.benchmark_count += static_cast<int>(entry.measured.size());
      table.put(entry);
    }
  }
  table.save(path);
  return table.entries.size();
}

std::filesystem::path table_path(const std::string& output) {
  std::filesystem::path path = output.empty() ? select::default_table_path() : std::filesystem::path(output);
  if (path.empty()) {
    throw Error(ErrorKind::kUsage,
                "no place for the table: set HOME, XDG_CACHE_HOME or FAIRWAY_AUTOTUNE, or give "
                "--output FILE");
  }
  return path;
}

}  // namespace fairway::cli
