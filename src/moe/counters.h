// Proof of which path ran: grouped calls, fallbacks by reason, calls per kernel row.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "kernels/common/registry.h"
#include "select/select.h"

namespace fairway::moe {

struct Counters {
  std::uint64_t grouped_calls = 0;                             // moe_swiglu dispatches (one per row per layer pass)
  std::uint64_t expert_groups = 0;                             // groups (expert with its tokens) inside them
  std::uint64_t bit_tuples = 0;                                // distinct bit tuples met, summed over layer passes
  std::array<std::uint64_t, 3> fallbacks{};                    // by select::Fallback
  std::map<const kernels::KernelRow*, std::uint64_t> kernels;  // calls per row, every op

  void count_kernel(const kernels::KernelRow& row) { ++kernels[&row]; }
  std::uint64_t fallback_calls() const { return fallbacks[1] + fallbacks[2]; }
};

}  // namespace fairway::moe
