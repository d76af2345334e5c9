// Runs MoE calls of one kind under any candidate and says how long they took: what tuning and the selection benchmark
// share.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "kernels/common/context.h"
#include "kernels/group_tokens/group_tokens.h"
#include "select/candidates.h"

namespace fairway::select {

// A layer to time: its experts, and what a token's hidden state looks like there. Nothing is copied.
struct TuneLayer {
  const std::vector<kernels::ExpertWeights>* experts;    // all of them trellis
  const std::vector<kernels::ExpertWeights>* always_on;  // the same
  MoeLayerTraits traits;
  std::vector<float> inputs;          // [rows, hidden], used in turn; empty: standard normal numbers
  std::vector<double> expert_shares;  // [experts] how often each is chosen (any scale); empty: all alike
};

// Coded bytes of an expert's three matrices.
std::int64_t coded_bytes(const kernels::ExpertWeights& expert);

// Calls of `tokens` tokens on layers of equal traits. route() draws which experts the tokens get; until it is called
// again, all candidates do the same work, on the next layer each time, so that with more layers than the caches hold
// their weights come from memory.
class CallTimer {
 public:
  // Error(kUsage) if the layers differ in their traits, are not trellis throughout, or inputs do not fit.
  CallTimer(std::span<const TuneLayer> layers, int tokens, kernels::KernelContext& context, std::uint64_t seed = 1);

  void route();
  // Seconds of one call. Calls shorter than `least_seconds` are repeated and their mean is taken.
  double time(const MoeCandidate& candidate, double least_seconds = 0);

  std::int64_t bytes_touched() const { return bytes_touched_; }  // coded bytes that a call of the present routing reads
  int tokens() const { return tokens_; }
  const MoeLayerTraits& traits() const { return layers_.front().traits; }

 private:
  void draw_experts(const TuneLayer& layer, std::span<std::int32_t> ids);
  double run_once(const MoeCandidate& candidate);

  std::span<const TuneLayer> layers_;
  const int tokens_;
  kernels::KernelContext& context_;
  std::mt19937_64 random_;
  std::size_t next_layer_ = 0;
  std::int64_t bytes_touched_ = 0;
  std::vector<float> x_, y_;
  std::vector<std::int32_t> ids_, all_rows_;
  std::vector<double> keys_;
  kernels::TokenGroups routed_;
  std::vector<kernels::ExpertGroup> groups_;
};

}  // namespace fairway::select
