// Selection by kernel family name with feedback: the selector of the founding documents. Rules of the device family
// come first; recorded latencies overrule them once they are beyond doubt; a small share of calls explores. Latencies
// are kept per bucket of batches, so requests of one bucket that the rules tell apart by their widths share them.
//
// This is the face for programs that run kernels by name and time them themselves (and for Python). The engine's own
// MoE layers select rows with their tiles through kernel_selector.h, which learns with the same Learner.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "select/activation_pattern.h"
#include "select/confidence.h"
#include "select/kernel_names.h"
#include "select/learner.h"

namespace fairway::select {

struct MixedSelectorOptions {
  int history_len = 100;                   // latencies kept per kernel and bucket
  double initial_exploration_rate = 0.05;  // 0: deterministic
  double min_exploration_rate = 0.01;
  double confidence_threshold = 0.95;
  std::uint64_t seed = 1;
  const DeviceProfile* device = nullptr;  // null: this machine
};

// A request, as the dispatch sees it.
struct MixedRequest {
  int batch_size = 1;                     // tokens, >= 1
  std::vector<int> active_expert_bits;    // a width per active expert, at least one
  std::optional<double> memory_pressure;  // 0..1; empty: read from this machine
  const KernelSet* available = nullptr;   // null: set_available_kernels, else what runs on this machine
  int total_experts = 0;                  // 0: unknown
};

struct MixedSelection {
  std::string kernel;
  std::string reason;     // "heuristic", "history", "exploration", "memory_pressure", "availability"
  std::string bucket;     // of the batch
  std::string heuristic;  // what the rules alone would take
  int tile_n = 64;
  double memory_pressure = 0, exploration_rate = 0;
  ExpertActivationPattern pattern;
};

struct KernelTimingRecord {
  std::string kernel, bucket, selected_by;
  int batch_size;
  double latency_ms;
};

struct SelectionStats {
  std::uint64_t total_selections = 0;
  std::uint64_t correct_selections = 0;  // of recorded calls: the kernel had the lowest mean of its bucket
  std::uint64_t recorded = 0;
  std::uint64_t switches = 0;  // changes of the best kernel of a bucket
  std::map<std::string, std::uint64_t> by_reason, by_kernel;
  double exploration_rate = 0;  // mean over the buckets in use
  double accuracy() const;      // correct / recorded; 0 without records
};

struct KernelAnalysis {
  std::string kernel, bucket;
  int samples = 0;
  double mean_ms = 0, median_ms = 0, min_ms = 0, max_ms = 0, std_ms = 0;
  std::optional<Interval> interval;  // of the mean
};

// Thread-safe. Selections and records take one lock.
class MixedKernelSelector {
 public:
  explicit MixedKernelSelector(const MixedSelectorOptions& options = {});

  MixedSelection select(const MixedRequest& request);
  // Error(kUsage) for a name that does not exist. Latencies that are not positive and finite are an error too.
  void record(std::string_view kernel, int batch_size, double latency_ms, std::string_view selected_by = "unknown");
  void set_available_kernels(KernelSet available);
  SelectionStats stats() const;
  KernelAnalysis analyze(std::string_view kernel, int batch_size, double confidence = 0.95) const;
  std::vector<KernelTimingRecord> records() const;  // the latest history_len of all
  double exploration_rate() const;
  void adapt_exploration_rate(double performance_stability);
  void reset();
  const DeviceProfile& device() const { return device_; }

 private:
  struct Bucket {
    std::vector<std::string> kernels;  // arm -> name
    std::unique_ptr<Learner> learner;
    std::map<int, int> in_use;  // arm of the rules -> arm that took its place; without an entry, none did
  };
  MixedSelection by_rules(const MixedRequest& request, const KernelSet& available) const;
  int arm_of(Bucket& bucket, std::string_view kernel);
  static int learned_arm(Bucket& bucket, int ruled, std::uint32_t legal);
  Bucket& bucket_of(std::string_view name, std::string_view first_kernel);

  const MixedSelectorOptions options_;
  const DeviceProfile& device_;
  mutable std::mutex mutex_;
  std::optional<KernelSet> available_;
  std::map<std::string, Bucket, std::less<>> buckets_;
  std::vector<KernelTimingRecord> records_;  // a ring
  std::size_t next_record_ = 0;
  SelectionStats stats_;
};

// The selector that programs share, made on first use; for this machine.
MixedKernelSelector& default_selector();

}  // namespace fairway::select
