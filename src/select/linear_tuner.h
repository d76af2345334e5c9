// Times the rows of trellis_linear on single matrices and remembers the fastest: the auto-tuner's rules (autotuner.h)
// for what the founding documents call a TrellisLinear. Rounds in turning order, medians, and the default keeps its
// place unless another row is faster beyond the noise of both.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kernels/common/context.h"
#include "kernels/trellis_linear/trellis_linear.h"
#include "select/autotuner.h"
#include "select/select.h"

namespace fairway::select {

// A row of trellis_linear with the tile it is called with.
struct LinearCandidate {
  const kernels::TrellisLinearRow* row = nullptr;
  kernels::Tile tile{};
  friend bool operator==(const LinearCandidate&, const LinearCandidate&) = default;
};
KernelConfig config_of(const LinearCandidate& candidate);
// Error(kUsage) if no row has that id or the tile is none for it. A config with all tile sizes 0 takes the row's own.
LinearCandidate linear_candidate_of(const KernelConfig& config);

// What runs m rows of x without any measurement.
LinearCandidate default_linear(const Policy& policy, const kernels::TrellisMatrix& matrix, int m);

// Every legal choice for m rows of x, the default first: rows with the default's activations that run here under the
// policy and read the codebook, each with its own tile and with the other column counts and workers.
std::vector<LinearCandidate> linear_candidates(const Policy& policy, const kernels::TrellisMatrix& matrix, int m);

// y[m, linear.out] = x[m, linear.in] W + bias with that row. Error(kUsage) if the row does not read the codebook.
void run_linear(const LinearCandidate& candidate, const kernels::LinearWeights& linear, const float* x, int m, float* y,
                kernels::KernelContext& context);

// What distinguishes calls of single matrices.
struct LinearCall {
  int tokens = 0, threads = 0;
  int in = 0, out = 0, bits = 0;  // exact sizes, without padding
  std::string codebook;           // "3inst", "mcg", "mul1"
  friend bool operator==(const LinearCall&, const LinearCall&) = default;
};

struct TunedLinear {
  LinearCall call;
  KernelConfig best, fallback;           // fallback: the default that had to be beaten
  std::vector<MeasuredKernel> measured;  // fastest first
};

// Thread-safe, except that benchmarks are meant to have the machine to themselves.
class LinearTuner {
 public:
  // Times `configs`, or all candidates if empty, and the default in any case. Results in ascending latency; the entry
  // replaces an earlier one of the same call. Error(kUsage) for a plain matrix, a batch below 1 or no iterations.
  // Cancelled before the first whole round: no results, no entry.
  std::vector<BenchmarkResult> benchmark(const kernels::LinearWeights& linear, int batch_size,
                                         const std::vector<KernelConfig>& configs, const TuneOptions& options,
                                         kernels::KernelContext& context);

  // The entry of the same matrix and thread count with the nearest number of tokens, by ratio at most 2.
  std::optional<TunedLinear> find(const LinearCall& call) const;
  std::vector<TunedLinear> entries() const;

  std::string to_json() const;  // an array
  // Adds the entries of such an array. Error(kBadInput) names `source` and what is wrong; nothing is added then.
  void add_json(const std::string& text, const std::string& source);

 private:
  void put(TunedLinear entry);

  mutable std::mutex mutex_;
  std::vector<TunedLinear> entries_;
};

}  // namespace fairway::select
