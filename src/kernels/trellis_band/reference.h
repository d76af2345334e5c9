// The scalar reference of a trellis-coded linear layer in double precision, shared by trellis_linear and moe_swiglu.
#pragma once

#include <cstdint>

#include "kernels/common/matrix.h"

namespace fairway::kernels {

// out[0..matrix.in) = (x * suh) H, with x[0..count) extended by zeros.
void reference_transform_input(const TrellisMatrix& matrix, const float* x, int count, double* out);

// y[m][128] = x[m][matrix.in] times the inner weights of one band.
void reference_inner(const TrellisMatrix& matrix, int band, const double* x, int m, double* y);

// y[m][128] = outputs band * 128 .. of one band for transformed rows x[m][matrix.in], scaled and biased.
void reference_band(const TrellisMatrix& matrix, int band, const double* x, int m, double* y);

}  // namespace fairway::kernels
