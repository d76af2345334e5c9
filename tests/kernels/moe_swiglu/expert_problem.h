// What the tests of the trellis rows of moe_swiglu share: the rows of this machine, random layers and bounds.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/features.h"
#include "common/compare.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_band/trellis_fixture.h"
#include "kernels/verify/expert_problem.h"

namespace fairway::kernels {

using verify::ExpertProblem;

// Of this machine.
inline std::vector<const MoeSwigluRow*> trellis_moe_rows() {
  std::vector<const MoeSwigluRow*> rows;
  for (const MoeSwigluRow& row : moe_swiglu_rows()) {
    if (row.info.weights == WeightKind::kTrellis && can_run(row.info, backend::cpu_info().features))
      rows.push_back(&row);
  }
  return rows;
}

inline test::Bound bound_of(const KernelRow& row, int k) {
  return verify::expert_bound(row, k);
}

}  // namespace fairway::kernels
