// One task of tuning: which layers, which batch sizes, how long; its result, and the table that results go to.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/moe_layers.h"
#include "cli/output.h"
#include "select/tuned_table.h"

namespace fairway::cli {

struct TuneTask {
  std::string name = "tune";
  LayerOptions layers;
  std::string text;  // file to record hidden states from; "": a short English text
  std::vector<int> batch_sizes;
  int threads = 0, iterations = 0, warmup = 1;  // threads 0: one per processor
  double budget_seconds = 0;                    // of everything, loading too; 0: none
  int recorded_tokens = 256;
  std::vector<std::string> verify;  // a command with its arguments; empty: none
};

// A round of calls is not cut short: on a machine that is busy otherwise, tuning may end some seconds later.
constexpr double kBudgetSeconds = 60, kQuickBudgetSeconds = 10;

// The settings of --quick and of a run without it; what the task has already is kept.
void fill_defaults(TuneTask& task, bool quick);

// What a named profile asks for: a task for each bit tuple and one for experts of all of them. Error(kUsage) lists the
// profiles.
std::vector<TuneTask> profile_tasks(const std::string& profile);

struct TuneOutcome {
  TuneTask task;
  std::string about;  // layers and inputs
  int threads = 0;
  double seconds = 0;
  std::int64_t calls = 0;
  bool complete = true;
  std::vector<select::TunedEntry> entries;
  std::vector<std::string> weights_from;  // of each entry: "memory" or "cache"
};

// Until the budget is used or Ctrl-C. progress(share of the task, what is under way).
TuneOutcome run_task(const TuneTask& task, const std::function<void(double, const std::string&)>& progress);

std::string outcome_text(const TuneOutcome& outcome);
Json outcome_json(const TuneOutcome& outcome);

// Adds the entries to the table at `path`, replacing those of the same calls. A file that is not usable is replaced,
// with a line on standard error. Returns the number of entries in the file.
std::size_t write_entries(const std::filesystem::path& path, const std::vector<TuneOutcome>& outcomes);

// `output`, or where commands look for a table. Error(kUsage) if neither is known.
std::filesystem::path table_path(const std::string& output);

}  // namespace fairway::cli
