// The experts of one layer in at most so many clusters of equal (gate, up, down) widths, at a given price of a bit.
#pragma once

#include <array>
#include <vector>

#include "quantize/widths.h"

namespace fairway::quantize {

using Tuple = std::array<int, 3>;  // widths of gate, up, down

struct TupleClusters {
  std::vector<Tuple> tuples;   // at most the cap, distinct
  std::vector<int> of_expert;  // [experts], index into tuples
};

// Least sum of losses + price * bits of codes that a greedy choice of tuples and single exchanges find. All matrices of
// the layer must have the same range. price >= 0, in loss per bit.
TupleClusters cluster_experts(const std::vector<FreeMatrix>& matrices, const ExpertLayer& layer, int cap, double price);

}  // namespace fairway::quantize
