// What selection knows of an MoE layer and of one call of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/moe_swiglu/moe_swiglu.h"

namespace fairway::select {

struct TupleShare {
  kernels::BitTuple bits;
  double share;  // of the layer's trellis experts, routed and always on alike
};

// Everything about a layer that decides which kernel suits it, whatever its weights are.
struct MoeLayerTraits {
  int hidden = 0, intermediate = 0;           // intermediate: of the routed experts, or of the first always-on one
  int experts = 0, top_k = 0, always_on = 0;  // routed experts, how many each token gets, experts of every token
  std::uint8_t codebooks = 0;                 // union of codebook_bit over the trellis experts; 0: none is trellis
  std::vector<TupleShare> mix;                // largest share first
  // Equal for layers that selection treats alike: sizes, codebooks, mean bits to a quarter, and whether all experts
  // have one bit tuple. 0: not described yet.
  std::uint64_t key = 0;

  double mean_bits() const;         // per weight of the trellis experts
  std::vector<int> widths() const;  // distinct widths of all projections, ascending
  std::string mix_text() const;     // "(6,2,3)" or "50% (2,2,2), 50% (4,4,4)"
};

MoeLayerTraits describe_moe_layer(const std::vector<kernels::ExpertWeights>& experts,
                                  const std::vector<kernels::ExpertWeights>& always_on, int top_k, int hidden);

// The same for a layer that exists only as numbers. mix: shares are normalised; Error(kUsage) for sizes below 1, or a
// mix that is empty or whose shares have no finite positive sum.
MoeLayerTraits moe_traits(int hidden, int intermediate, int experts, int top_k, int always_on, std::uint8_t codebooks,
                          std::vector<TupleShare> mix);

// Groups that a call is expected to form: how many experts get m tokens, for every m where that number is a thousandth
// or more. Tokens choose their experts alike and independently.
struct GroupSize {
  int m;
  double experts;  // expected number
};
std::vector<GroupSize> expected_groups(const MoeLayerTraits& traits, int tokens);

}  // namespace fairway::select
