// One choice for every item so that the costs fit a budget and the sum of losses is least: the arithmetic of
// allocation.
#pragma once

#include <cstdint>
#include <vector>

namespace fairway::quantize {

struct Choice {
  std::int64_t cost = 0;  // not negative
  double loss = 0;        // finite
};

using Item = std::vector<Choice>;  // 1 to 65,535 choices in any order

struct Selection {
  std::vector<int> chosen;  // [items], index of the choice
  std::int64_t cost = 0;    // of all chosen
  double loss = 0;          // of all chosen, summed in the order of the items
  double bound = 0;         // no selection within the budget has a smaller loss: the value of the Lagrangian dual
  double multiplier = 0;    // its argument: loss saved per unit of cost at the margin; 0: the budget does not bind
};

// The Lagrangian optimum by the convex hulls of all items, then what is left of the budget by dynamic programming over
// the items whose next choice is nearest to the margin. The result is the optimum whenever that table holds everything
// that the bound leaves open, which small problems always fit; otherwise loss - bound says how far it can be off.
// Deterministic; ties go to the earlier item. Error(kUsage) if even the cheapest choices exceed the budget.
Selection solve_knapsack(const std::vector<Item>& items, std::int64_t budget);

}  // namespace fairway::quantize
