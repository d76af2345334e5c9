// The bodies that the rows of trellis_linear name.
#pragma once

#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::kernels {

void trellis_linear_reference(const TrellisLinearArgs& args, KernelContext& context);
void trellis_linear_fp32acc_avx2(const TrellisLinearArgs& args, KernelContext& context);
void trellis_linear_fp32acc_avx512(const TrellisLinearArgs& args, KernelContext& context);
void trellis_linear_int8_avx2(const TrellisLinearArgs& args, KernelContext& context);
void trellis_linear_int8_avx512(const TrellisLinearArgs& args, KernelContext& context);

}  // namespace fairway::kernels
