// The rules that raise whole groups of matrices by one bit, without looking at losses.
#pragma once

#include <cstdint>
#include <vector>

#include "quantize/sensitivity.h"

namespace fairway::quantize {

// Matrices that these rules keep at one width: q, k and v of a layer; gate and up of a dense MLP or shared expert;
// gate, up and down of all routed experts of a layer; every other matrix by itself.
struct WidthGroup {
  std::vector<std::size_t> members;  // indices into the list it was made from
  std::int64_t weights = 0;
  int priority = 0;  // of the reference rule
  int layer = -1;
};

// Groups of linears[index] for each index of `budgeted`, in the order of their first members.
std::vector<WidthGroup> width_groups(const std::vector<LinearSensitivity>& linears,
                                     const std::vector<std::size_t>& budgeted);

// Widths by index into `linears`, 0 for those not in `budgeted`; sum of weights * width <= budget_bits. Both rules
// start at floor(budget_bits / weights) everywhere, 8 at most, and Error(kUsage) if that is below 1.
//
// Uniform: one pass over the groups in file order; each that the rest of the budget pays for gets one bit more.
std::vector<int> allocate_uniform(const std::vector<LinearSensitivity>& linears,
                                  const std::vector<std::size_t>& budgeted, std::int64_t budget_bits);

// Reference: groups by descending priority (attention 4, shared experts 3, dense MLPs 2, routed experts 0), then by
// distance to the nearer end of the layers, layer and order of appearance; passes that raise every group that the rest
// of the budget pays for by one bit, to 8 at most, until a pass raises none.
std::vector<int> allocate_reference(const std::vector<LinearSensitivity>& linears,
                                    const std::vector<std::size_t>& budgeted, std::int64_t budget_bits);

}  // namespace fairway::quantize
