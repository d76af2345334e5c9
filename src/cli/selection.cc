// Tuned tables at start-up, and reports of decisions.
#include "cli/selection.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "backend/cpu/features.h"
#include "select/telemetry.h"

namespace fairway::cli {

using select::KernelSelector;

void add_table_options(CLI::App& command, StartOptions& options) {
  auto* table = command
                    .add_option("--table", options.table,
                                "Tuned table of `fairway autotune` (default: the one of this device, if there is one)")
                    ->type_name("FILE");
  command.add_flag("--no-table", options.no_table, "Use no tuned table: kernels by the rules of the device family")
      ->excludes(table);
}

void add_start_options(CLI::App& command, StartOptions& options) {
  add_table_options(command, options);
  command.add_flag(
      "--learn", options.learn,
      "Try other kernels for the experts while running and keep the fastest. Off by default: kernels round "
      "differently, so only without it the same input always gives the same result");
  command.add_flag("--explain", options.explain,
                   "At the end, a line on standard error for each kind of MoE call: kernel, reason, margin");
}

void add_telemetry_option(CLI::App& command, StartOptions& options) {
  command
      .add_option(
          "--telemetry", options.telemetry,
          "At the end, write which kernels were chosen how often, and with --learn their times: Prometheus text "
          "if FILE ends in .prom, else JSON")
      ->type_name("FILE");
}

StartTable load_start_table(const StartOptions& options) {
  StartTable start;
  if (options.no_table) return start;
  const bool asked = !options.table.empty();
  start.path = asked ? std::filesystem::path(options.table) : select::default_table_path();
  std::error_code error;
  if (asked && !std::filesystem::is_regular_file(start.path, error)) {
    throw Error(ErrorKind::kBadInput, fmt::format("--table {}: no such file; `fairway autotune --output {}` makes one",
                                                  options.table, options.table));
  }
  auto table = select::TunedTable::load_if_usable(start.path, start.why_not);
  if (asked && !table) throw Error(ErrorKind::kBadInput, fmt::format("--table {}", start.why_not));
  start.used = table.has_value();
  if (table) start.table = std::move(*table);
  return start;
}

void give_table_to_device(StartOptions& options, DeviceOptions& device) {
  if (device.device != "cpu") device.table = std::exchange(options.table, "");
}

int worker_count(int threads) {
  return threads > 0 ? threads : backend::cpu_info().cores;
}

void note_unusable(const StartTable& start) {
  if (!start.why_not.empty()) fmt::print(stderr, "fairway: note: {}\n", start.why_not);
}

select::Policy start_policy(const KernelOptions& kernels, const StartOptions& options, int threads,
                            const StartTable& start) {
  select::Policy policy = make_policy(kernels);
  select::attach_selector(policy, worker_count(threads), start.table, options.learn);
  return policy;
}

select::Policy start_policy(const KernelOptions& kernels, const StartOptions& options, int threads) {
  make_policy(kernels);  // a wrong name comes before notes
  const StartTable start = load_start_table(options);
  note_unusable(start);
  return start_policy(kernels, options, threads, start);
}

KernelSelector::Decision latest_decision(const KernelSelector::Site& site) {
  if (site.learner == nullptr) return {&site, site.preferred, site.preferred_reason};
  const int current = site.learner->current();
  return {&site, current, current == site.preferred ? site.preferred_reason : select::Reason::kLearned};
}

void print_explanations(const KernelSelector& selector) {
  for (const KernelSelector::Site* site : selector.sites()) {
    fmt::print(stderr, "{}\n", selector.explain_line(latest_decision(*site)));
  }
}

void report_selection(const StartOptions& options, const KernelSelector& selector) {
  if (options.explain) print_explanations(selector);
  if (options.telemetry.empty()) return;
  const bool prometheus = std::filesystem::path(options.telemetry).extension() == ".prom";
  write_text_file(options.telemetry, prometheus ? telemetry_prometheus(selector) : telemetry_json(selector),
                  "--telemetry");
}

Json sites_json(const KernelSelector& selector) {
  Json sites = Json::array();
  for (const KernelSelector::Site* site : selector.sites()) {
    const KernelSelector::Decision decision = latest_decision(*site);
    Json calls = Json::object();
    for (std::size_t i = 0; i < site->candidates.size(); ++i) {
      const std::uint64_t count = site->chosen[i].load(std::memory_order_relaxed);
      if (count > 0) calls[site->candidates[i].name()] = count;
    }
    sites.push_back({{"tokens", site->tokens},
                     {"bits", site->traits.mix_text()},
                     {"experts", site->traits.experts},
                     {"kernel", decision.candidate().name()},
                     {"reason", select::reason_name(decision.reason)},
                     {"why", site->why},
                     {"fallback", select::fallback_name(site->fallback)},
                     {"calls", calls}});
  }
  return sites;
}

Json start_table_json(const StartTable& start) {
  return {{"path", start.path.string()},
          {"used", start.used},
          {"entries", start.table.entries.size()},
          {"date", start.table.date},
          {"why_not", start.why_not}};
}

StartPolicies::StartPolicies(const KernelOptions& kernels, const StartOptions& options, const std::vector<int>& threads)
    : options_(options) {
  make_policy(kernels);  // a wrong name comes before notes
  start_ = load_start_table(options);
  note_unusable(start_);
  for (const int count : threads) policies_.try_emplace(count, start_policy(kernels, options, count, start_));
}

void StartPolicies::print_explanations() const {
  if (!options_.explain) return;
  for (const auto& [threads, policy] : policies_) cli::print_explanations(*policy.selector);
}

Json StartPolicies::json() const {
  Json sites = Json::array();
  for (const auto& [threads, policy] : policies_) {
    for (Json& site : sites_json(*policy.selector)) {
      Json entry = {{"threads", threads}};
      entry.update(site);
      sites.push_back(std::move(entry));
    }
  }
  return {{"table", start_table_json(start_)}, {"learn", options_.learn}, {"sites", std::move(sites)}};
}

}  // namespace fairway::cli
