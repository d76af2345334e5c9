// Widths under a cap on the number of distinct (gate, up, down) tuples among the routed experts of a layer.
#pragma once

#include <cstdint>
#include <vector>

#include "quantize/widths.h"

namespace fairway::quantize {

// A width for every matrix so that the codes fit budget_bits and no layer has more than `cap` >= 1 tuples. Experts of a
// layer are clustered at the multiplier of the uncapped optimum and at multipliers around it (greedy choice of tuples,
// then exchange of one tuple as long as that helps). Then two exact steps take turns: the best widths of all clusters
// for the budget, and the best cluster of all experts for the budget. The best of all starts is returned; it is a local
// optimum, not a proven one. Deterministic. Error(kUsage) if the least widths exceed the budget.
std::vector<int> allocate_capped(const std::vector<FreeMatrix>& matrices, const std::vector<ExpertLayer>& layers,
                                 int cap, std::int64_t budget_bits, double multiplier);

}  // namespace fairway::quantize
