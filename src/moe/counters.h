// Proof of which path ran: grouped calls, fallbacks by reason, calls per kernel row; where the time went; and a place
// for whoever wants to look at the calls themselves.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <span>
#include <string>

#include "kernels/common/matrix.h"
#include "kernels/common/registry.h"
#include "select/select.h"

namespace fairway::moe {

// Parts of a forward pass. kAttentionBlock is projections, norms and rotation around kAttention as well as kAttention
// itself; kExperts includes the router. What remains of a token is embedding, norms, residuals and sampling.
enum class Stage { kAttentionBlock, kAttention, kExperts, kHead };
constexpr std::size_t kStages = 4;
using StageSeconds = std::array<double, kStages>;

struct MoeLayerWeights;

// Sees a call of a layer of experts before these run: its inputs x[m, hidden], the experts that the router chose and
// their weights, both [m, top_k] and both empty for a dense MLP.
using CallObserver = std::function<void(const MoeLayerWeights& layer, const float* x, int m, int hidden,
                                        std::span<const std::int32_t> ids, std::span<const float> weights)>;

// Sees the inputs of a single linear layer before it runs: x[m, weights.in], row stride ldx.
using LinearObserver =
    std::function<void(const kernels::LinearWeights& weights, const float* x, std::int64_t ldx, int m)>;

// Sees the hidden states x[m, hidden] after layer `layer`, before the next one changes them.
using LayerObserver = std::function<void(int layer, const float* x, int m, int hidden)>;

struct Counters {
  bool timed = false;               // keep stage_seconds; off, a stage costs no look at the clock
  StageSeconds stage_seconds{};     // by Stage
  std::uint64_t grouped_calls = 0;  // moe_swiglu dispatches (one per row per layer pass)
  std::uint64_t expert_groups = 0;  // groups (expert with its tokens) inside them
  std::uint64_t bit_tuples = 0;     // distinct bit tuples met, summed over layer passes
  std::array<std::uint64_t, select::kFallbacks> fallbacks{};   // by select::Fallback
  std::map<const kernels::KernelRow*, std::uint64_t> kernels;  // calls per row, every op
  CallObserver observer;                                       // empty: nobody looks
  LayerObserver layer_observer;
  LinearObserver linear_observer;

  void count_kernel(const kernels::KernelRow& row) { ++kernels[&row]; }
  std::uint64_t fallback_calls() const {
    return std::accumulate(fallbacks.begin() + 1, fallbacks.end(), std::uint64_t{0});
  }
};

// Adds the time until its end to a stage.
class StageTimer {
 public:
  StageTimer(Counters& counters, Stage stage) : counters_(counters), stage_(stage) {
    if (counters_.timed) begin_ = std::chrono::steady_clock::now();
  }
  ~StageTimer() {
    if (!counters_.timed) return;
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
    counters_.stage_seconds[static_cast<std::size_t>(stage_)] += passed.count();
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  Counters& counters_;
  Stage stage_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace fairway::moe
