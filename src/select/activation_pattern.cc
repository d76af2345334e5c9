// Counting widths.
#include "select/activation_pattern.h"

#include <fmt/format.h>

#include <cmath>

#include "codec/packing.h"
#include "fairway/error.h"

namespace fairway::select {

double ExpertActivationPattern::share_of(int bits) const {
  const auto it = bit_distribution.find(bits);
  if (it == bit_distribution.end() || active_expert_bits.empty()) return 0;
  return static_cast<double>(it->second) / static_cast<double>(active_expert_bits.size());
}

ExpertActivationPattern analyze_activation(std::span<const int> active_expert_bits, int total_experts) {
  if (active_expert_bits.empty()) throw Error(ErrorKind::kUsage, "no active experts: their widths are needed");
  const auto active = static_cast<double>(active_expert_bits.size());
  if (total_experts != 0 && total_experts < static_cast<int>(active_expert_bits.size())) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} active experts of {} in all", active_expert_bits.size(), total_experts));
  }
  ExpertActivationPattern pattern;
  pattern.active_expert_bits.assign(active_expert_bits.begin(), active_expert_bits.end());
  for (const int bits : active_expert_bits) {
    if (bits < FAIRWAY_MIN_BITS || bits > FAIRWAY_MAX_BITS) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("an expert of {} bits, expected {} to {}", bits, FAIRWAY_MIN_BITS, FAIRWAY_MAX_BITS));
    }
    ++pattern.bit_distribution[bits];
  }
  if (total_experts != 0) pattern.expert_sparsity = active / total_experts;
  for (const auto& [bits, count] : pattern.bit_distribution) {
    const double share = count / active;
    pattern.activation_entropy -= share * std::log2(share);
  }
  if (pattern.bit_distribution.size() == 1) pattern.activation_entropy = 0;  // not -0
  return pattern;
}

}  // namespace fairway::select
