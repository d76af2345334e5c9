// The bodies that the rows of moe_swiglu name.
#pragma once

#include "kernels/moe_swiglu/moe_swiglu.h"

namespace fairway::kernels {

void moe_trellis_reference(const MoeSwigluArgs& args, KernelContext& context);
void moe_decode_int8_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_prefill4_int8_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_panel_int8_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_decode_fp32acc_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_prefill4_fp32acc_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_panel_fp32acc_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_decode_int8_avx512(const MoeSwigluArgs& args, KernelContext& context);
void moe_prefill4_int8_avx512(const MoeSwigluArgs& args, KernelContext& context);
void moe_panel_int8_avx512(const MoeSwigluArgs& args, KernelContext& context);
void moe_decode_fp32acc_avx512(const MoeSwigluArgs& args, KernelContext& context);
void moe_prefill4_fp32acc_avx512(const MoeSwigluArgs& args, KernelContext& context);
void moe_panel_fp32acc_avx512(const MoeSwigluArgs& args, KernelContext& context);
void moe_dense_ref(const MoeSwigluArgs& args, KernelContext& context);
void moe_dense_avx2(const MoeSwigluArgs& args, KernelContext& context);
void moe_dense_avx512(const MoeSwigluArgs& args, KernelContext& context);

}  // namespace fairway::kernels
