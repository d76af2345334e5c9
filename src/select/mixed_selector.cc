// The steps of a selection by name: rules, memory, availability, then what the recorded latencies say.
#include "select/mixed_selector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu/memory_pressure.h"
#include "fairway/error.h"

namespace fairway::select {
namespace {

constexpr double kHighPressure = 0.9;  // above it, the kernel that needs least beside its operands
constexpr double kMostlyTwoBits = 0.5;
constexpr std::string_view kStandardKernel = "moe_trellis_swiglu";

// The founding documents' rules on widths: they come before the batch on devices that have them.
std::string_view kernel_for_widths(const ExpertActivationPattern& pattern) {
  const bool two = pattern.share_of(2) > 0;
  if (pattern.share_of(2) > kMostlyTwoBits) return "fast_2bit_kernel";
  if (two && (pattern.share_of(3) > 0 || pattern.share_of(4) > 0)) return "mixed_bpw_kernel";
  return kStandardKernel;
}

}  // namespace

double SelectionStats::accuracy() const {
  return recorded == 0 ? 0 : static_cast<double>(correct_selections) / static_cast<double>(recorded);
}

MixedKernelSelector::MixedKernelSelector(const MixedSelectorOptions& options)
    : options_(options), device_(options.device == nullptr ? this_device() : *options.device) {
  LearnerOptions check;
  check.history = options.history_len;
  check.exploration = options.initial_exploration_rate;
  check.least_exploration = std::min(options.min_exploration_rate, options.initial_exploration_rate);
  check.confidence = options.confidence_threshold;
  Learner(1, 0, check);  // refuses what a bucket could not use
}

MixedSelection MixedKernelSelector::by_rules(const MixedRequest& request, const KernelSet& available) const {
  MixedSelection selection;
  selection.pattern = analyze_activation(request.active_expert_bits, request.total_experts);
  const BatchRule& rule = rule_for_batch(device_, request.batch_size);
  selection.bucket = rule.bucket;
  selection.tile_n = rule.tile_n;
  selection.reason = "heuristic";
  NameQuery query{request.batch_size, false, std::nullopt, &available, &device_};
  selection.heuristic =
      device_.width_rules ? std::string(kernel_for_widths(selection.pattern)) : get_kernel_for_batch_size(query).kernel;
  selection.kernel = selection.heuristic;
  selection.memory_pressure = request.memory_pressure ? *request.memory_pressure : backend::memory_pressure();
  if (!(selection.memory_pressure >= 0 && selection.memory_pressure <= 1)) {
    throw Error(ErrorKind::kUsage, fmt::format("memory pressure {}, expected 0 to 1", selection.memory_pressure));
  }
  if (selection.memory_pressure > kHighPressure && selection.kernel != kStandardKernel) {
    selection.kernel = kStandardKernel;
    selection.reason = "memory_pressure";
  }
  if (!available.contains(selection.kernel)) {
    selection.kernel = select_moe_kernel(query).kernel;
    selection.reason = "availability";
  }
  return selection;
}

MixedSelection MixedKernelSelector::select(const MixedRequest& request) {
  const std::lock_guard lock(mutex_);
  const KernelSet every = request.available != nullptr ? *request.available
                          : available_                 ? *available_
                                                       : available_families();
  for (const std::string& name : every) check_kernel_name(name);
  MixedSelection selection = by_rules(request, every);
  Bucket& bucket = bucket_of(selection.bucket, selection.kernel);
  const int ruled = arm_of(bucket, selection.kernel);
  // Kernels that are available but new to the bucket are what exploration may try.
  for (const std::string& name : every) {
    if (bucket.kernels.size() < static_cast<std::size_t>(Learner::kMaxArms)) arm_of(bucket, name);
  }
  // Short of memory nothing is tried and nothing that was learned with more of it counts.
  if (selection.memory_pressure <= kHighPressure) {
    std::uint32_t legal = 0;
    for (std::size_t arm = 0; arm < bucket.kernels.size(); ++arm) {
      if (every.contains(bucket.kernels[arm])) legal |= std::uint32_t{1} << arm;
    }
    const Learner::Pick pick = bucket.learner->choose(legal);
    const int arm = pick.explored ? pick.arm : learned_arm(bucket, ruled, legal);
    if (arm != ruled) {
      selection.kernel = bucket.kernels[static_cast<std::size_t>(arm)];
      selection.reason = pick.explored ? "exploration" : "history";
    }
  }
  selection.exploration_rate = bucket.learner->exploration_rate();
  ++stats_.total_selections;
  ++stats_.by_reason[selection.reason];
  ++stats_.by_kernel[selection.kernel];
  return selection;
}

void MixedKernelSelector::record(std::string_view kernel, int batch_size, double latency_ms,
                                 std::string_view selected_by) {
  check_kernel_name(kernel);
  if (!std::isfinite(latency_ms) || latency_ms <= 0) {
    throw Error(ErrorKind::kUsage,
                fmt::format("latency of {} ms for {}, expected a positive number", latency_ms, kernel));
  }
  const std::string bucket_name(rule_for_batch(device_, batch_size).bucket);
  const std::lock_guard lock(mutex_);
  Bucket& bucket = bucket_of(bucket_name, kernel);
  const int arm = arm_of(bucket, kernel);
  bucket.learner->record(arm, latency_ms);
  ++stats_.recorded;
  if (bucket.learner->fastest() == arm) ++stats_.correct_selections;
  KernelTimingRecord record{std::string(kernel), bucket_name, std::string(selected_by), batch_size, latency_ms};
  const auto most = static_cast<std::size_t>(options_.history_len);
  if (records_.size() < most) {
    records_.push_back(std::move(record));
  } else {
    records_[next_record_] = std::move(record);
    next_record_ = (next_record_ + 1) % most;
  }
}

void MixedKernelSelector::set_available_kernels(KernelSet available) {
  if (available.empty()) throw Error(ErrorKind::kUsage, "no kernel is available");
  for (const std::string& name : available) check_kernel_name(name);
  const std::lock_guard lock(mutex_);
  available_ = std::move(available);
}

SelectionStats MixedKernelSelector::stats() const {
  const std::lock_guard lock(mutex_);
  SelectionStats stats = stats_;
  stats.switches = 0;
  double rates = 0;
  for (const auto& [name, bucket] : buckets_) {
    stats.switches += bucket.learner->switches();
    rates += bucket.learner->exploration_rate();
  }
  stats.exploration_rate =
      buckets_.empty() ? options_.initial_exploration_rate : rates / static_cast<double>(buckets_.size());
  return stats;
}

KernelAnalysis MixedKernelSelector::analyze(std::string_view kernel, int batch_size, double confidence) const {
  check_kernel_name(kernel);
  KernelAnalysis analysis;
  analysis.kernel = kernel;
  analysis.bucket = rule_for_batch(device_, batch_size).bucket;
  std::vector<double> times;
  {
    const std::lock_guard lock(mutex_);
    const auto bucket = buckets_.find(analysis.bucket);
    if (bucket != buckets_.end()) {
      const auto& names = bucket->second.kernels;
      const auto it = std::find(names.begin(), names.end(), kernel);
      if (it != names.end()) times = bucket->second.learner->samples(static_cast<int>(it - names.begin()));
    }
  }
  analysis.interval = confidence_interval(times, confidence);
  analysis.samples = static_cast<int>(times.size());
  if (times.empty()) return analysis;
  std::sort(times.begin(), times.end());
  const std::size_t half = times.size() / 2;
  analysis.min_ms = times.front();
  analysis.max_ms = times.back();
  analysis.median_ms = times.size() % 2 == 1 ? times[half] : (times[half - 1] + times[half]) / 2;
  for (const double time : times) analysis.mean_ms += time / static_cast<double>(times.size());
  for (const double time : times) analysis.std_ms += (time - analysis.mean_ms) * (time - analysis.mean_ms);
  analysis.std_ms = times.size() < 2 ? 0 : std::sqrt(analysis.std_ms / static_cast<double>(times.size() - 1));
  return analysis;
}

std::vector<KernelTimingRecord> MixedKernelSelector::records() const {
  const std::lock_guard lock(mutex_);
  std::vector<KernelTimingRecord> ordered(records_);
  std::rotate(ordered.begin(), ordered.begin() + static_cast<std::ptrdiff_t>(next_record_), ordered.end());
  return ordered;
}

double MixedKernelSelector::exploration_rate() const {
  return stats().exploration_rate;
}

void MixedKernelSelector::adapt_exploration_rate(double performance_stability) {
  const std::lock_guard lock(mutex_);
  for (auto& [name, bucket] : buckets_) bucket.learner->adapt_exploration_rate(performance_stability);
}

void MixedKernelSelector::reset() {
  const std::lock_guard lock(mutex_);
  buckets_.clear();
  records_.clear();
  next_record_ = 0;
  stats_ = {};
}

// What runs instead of the kernel of the rules. It keeps its place until another one is faster than it beyond doubt:
// the kernel of the rules may come back, and arms that are equal do not take turns.
int MixedKernelSelector::learned_arm(Bucket& bucket, int ruled, std::uint32_t legal) {
  const auto it = bucket.in_use.find(ruled);
  const int now = it == bucket.in_use.end() || (legal >> it->second & 1) == 0 ? ruled : it->second;
  const int arm = bucket.learner->better_than(now, legal);
  if (arm != now) bucket.in_use[ruled] = arm;
  return arm;
}

int MixedKernelSelector::arm_of(Bucket& bucket, std::string_view kernel) {
  const auto it = std::find(bucket.kernels.begin(), bucket.kernels.end(), kernel);
  if (it != bucket.kernels.end()) return static_cast<int>(it - bucket.kernels.begin());
  const int arm = bucket.learner->add_arm();
  bucket.kernels.emplace_back(kernel);
  return arm;
}

MixedKernelSelector::Bucket& MixedKernelSelector::bucket_of(std::string_view name, std::string_view first_kernel) {
  const auto found = buckets_.find(name);
  if (found != buckets_.end()) return found->second;
  LearnerOptions options;
  options.history = options_.history_len;
  options.exploration = options_.initial_exploration_rate;
  options.least_exploration = std::min(options_.min_exploration_rate, options_.initial_exploration_rate);
  options.confidence = options_.confidence_threshold;
  options.seed = options_.seed;
  Bucket bucket{{std::string(first_kernel)}, std::make_unique<Learner>(1, 0, options), {}};
  return buckets_.emplace(std::string(name), std::move(bucket)).first->second;
}

MixedKernelSelector& default_selector() {
  static MixedKernelSelector selector;
  return selector;
}

}  // namespace fairway::select
