// What the allocation rules work on: matrices whose widths are free within a range, and the experts of a layer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "quantize/knapsack.h"
#include "quantize/sensitivity.h"

namespace fairway::quantize {

// Allowed widths, both ends included; equal ends fix the width.
struct WidthRange {
  int low = 1;
  int high = kMaxBits;
  bool operator==(const WidthRange&) const = default;
};

struct FreeMatrix {
  std::int64_t weights = 0;
  std::array<double, kMaxBits + 1> loss{};  // by width, as in LinearSensitivity
  WidthRange range;
};

// Indices of a routed expert's gate, up and down into a list of matrices.
using ExpertMatrices = std::array<std::size_t, 3>;

// Routed experts of one layer, by number.
struct ExpertLayer {
  std::vector<ExpertMatrices> experts;
};

// Widths low..high as choices: cost in bits of codes. Choice c is the width low + c.
inline Item width_choices(const FreeMatrix& m) {
  Item item;
  for (int k = m.range.low; k <= m.range.high; ++k) {
    item.push_back({m.weights * k, m.loss[static_cast<std::size_t>(k)]});
  }
  return item;
}

}  // namespace fairway::quantize
