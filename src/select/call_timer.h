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

// Times calls of `tokens` tokens on layers of equal traits. A sample is a walk over several calls with routings of
// their own, layer after layer: as many as it takes to read more weights than the caches hold, so that they come from
// memory as in a model, or as the layers have, or kMostCalls. Until route() draws new ones, all candidates do the same
// calls.
class CallTimer {
 public:
  static constexpr int kMostCalls = 64;  // of a walk

  // Error(kUsage) if the layers differ in their traits, are not trellis throughout, or inputs do not fit.
  CallTimer(std::span<const TuneLayer> layers, int tokens, kernels::KernelContext& context, std::uint64_t seed = 1);

  void route();
  // Seconds of one call, the mean of a walk. Walks shorter than `least_seconds` are repeated.
  double time(const MoeCandidate& candidate, double least_seconds = 0);

  int calls() const { return static_cast<int>(calls_.size()); }  // of the present walk
  std::int64_t bytes_touched() const { return bytes_touched_; }  // coded bytes that a call reads, mean of the walk
  int tokens() const { return tokens_; }
  const MoeLayerTraits& traits() const { return layers_.front().traits; }

 private:
  struct Call {
    const float* x;
    kernels::TokenGroups routed;
    std::vector<std::int32_t> all_rows;  // of the experts that every token uses
    std::vector<kernels::ExpertGroup> groups;
  };
  void draw_experts(const TuneLayer& layer, std::span<std::int32_t> ids);
  std::int64_t draw_call(const TuneLayer& layer, Call& call);  // coded bytes that it reads
  void run(const MoeCandidate& candidate, const Call& call);

  std::span<const TuneLayer> layers_;
  const int tokens_;
  kernels::KernelContext& context_;
  std::mt19937_64 random_;
  std::size_t next_layer_ = 0;
  std::int64_t layers_bytes_ = 0, bytes_touched_ = 0;
  std::vector<Call> calls_;
  std::vector<float> normal_, y_;  // inputs of layers that bring none; outputs
  std::vector<std::int32_t> ids_;
  std::vector<double> keys_;
};

// Coded bytes beyond which weights that are read in turn come from memory: more than the last-level cache.
std::int64_t cold_bytes();

}  // namespace fairway::select
