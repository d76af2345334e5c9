// Block LDL factors of a Hessian, for feedback between strips of 16 inputs.
#pragma once

#include <vector>

#include "kernels/common/context.h"

namespace fairway::quantize {

// H = L D L^T with L unit lower triangular in blocks of 16 and D block diagonal. With E the errors of the weights,
// tr(E^T H E) is the sum over strips b of tr(e_b^T D_b e_b) with e_b = E_b + sum over j > b of L[j, b]^T E_j: coding
// the strips from the last to the first, each with the errors of the later ones added to its weights, leaves the
// rounding errors e_b alone (LDLQ, QuIP# and QTIP).
struct BlockLdl {
  int dim = 0;
  std::vector<float> lower;      // [dim, dim]; the blocks on the diagonal are zero, and what is above them
  std::vector<double> diagonal;  // [dim]: of D
  double trace = 0;              // of D: the error of white rounding noise of variance 1 per weight and output
};

// h: [dim, dim], symmetric, dim a multiple of 16. `damping` times the mean of its diagonal is added to the diagonal,
// and more if the matrix is not positive definite even so. Error(kBadInput) if nothing helps: values that are not
// finite.
BlockLdl block_ldl(const std::vector<double>& h, int dim, double damping, kernels::KernelContext& context);

}  // namespace fairway::quantize
