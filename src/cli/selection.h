// How a command's MoE calls find their kernels: the tuned table at start-up, learning, and what was decided in the end.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/output.h"
#include "select/kernel_selector.h"

namespace fairway::cli {

struct StartOptions {
  std::string table;  // "": the default path
  bool no_table = false, learn = false, explain = false;
  std::string telemetry;  // file; "": none
};

// --table, --no-table, --learn, --explain.
void add_start_options(CLI::App& command, StartOptions& options);
// --table and --no-table alone.
void add_table_options(CLI::App& command, StartOptions& options);

// --telemetry, for commands with one selector.
void add_telemetry_option(CLI::App& command, StartOptions& options);

// The tuned table that a command starts with, or why there is none.
struct StartTable {
  std::filesystem::path path;  // empty: none was looked for
  bool used = false;
  std::string why_not;  // one line if a file is there but not usable
  select::TunedTable table;
};
// Error(kBadInput) if --table names a file that is not usable; a file at the default path that is not is no error.
StartTable load_start_table(const StartOptions& options);

// On a CUDA device --table is a table of its paths: moves it from the one to the other.
void give_table_to_device(StartOptions& options, DeviceOptions& device);

// Workers that the thread pool will have for this option.
int worker_count(int threads);

// The policy of the options with a selector for so many threads. A line on standard error says if a table is there but
// not usable.
select::Policy start_policy(const KernelOptions& kernels, const StartOptions& options, int threads);

// The same with a table that was loaded before, and without the line.
select::Policy start_policy(const KernelOptions& kernels, const StartOptions& options, int threads,
                            const StartTable& start);
void note_unusable(const StartTable& start);

// What a site does after all its calls so far.
select::KernelSelector::Decision latest_decision(const select::KernelSelector::Site& site);

// A line per site on standard error.
void print_explanations(const select::KernelSelector& selector);
// What the options ask for at the end: explanations, and the telemetry file. Error(kResource) if it cannot be written.
void report_selection(const StartOptions& options, const select::KernelSelector& selector);

// Per site: tokens, widths, kernel, reason, why, fallback and the calls of each kernel.
Json sites_json(const select::KernelSelector& selector);
Json start_table_json(const StartTable& start);

// A policy with a selector of its own for each thread count, for commands that measure several.
class StartPolicies {
 public:
  StartPolicies(const KernelOptions& kernels, const StartOptions& options, const std::vector<int>& threads);

  const select::Policy& at(int threads) const { return policies_.at(threads); }
  void print_explanations() const;  // if --explain
  Json json() const;                // "table", "learn" and "sites", each with its threads

 private:
  StartOptions options_;
  StartTable start_;
  std::map<int, select::Policy> policies_;
};

}  // namespace fairway::cli
