// What the experts of one call have in common: their widths, how mixed these are, and how many experts take part.
#pragma once

#include <map>
#include <span>
#include <vector>

namespace fairway::select {

struct ExpertActivationPattern {
  std::vector<int> active_expert_bits;  // one width per active expert, 1..8
  double expert_sparsity = 1;           // active experts / all experts, 0..1; 1 if their number is unknown
  std::map<int, int> bit_distribution;  // width -> experts
  double activation_entropy = 0;        // of the widths, in bits: 0 for one width, 2 for four that are equally common

  double share_of(int bits) const;  // experts of that width / active experts; 0 without experts
};

// Error(kUsage) for a width outside 1..8, no experts at all, or fewer experts in all than active ones. total_experts 0:
// unknown.
ExpertActivationPattern analyze_activation(std::span<const int> active_expert_bits, int total_experts = 0);

}  // namespace fairway::select
