// Grouped-query attention of decode steps over short contexts: from the projections of a row to what the output
// projection reads, in one launch; and of one row with its projections.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/common/cuda/attend.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {

// attend: its q is prepare.q_out, its rows and cache are those of prepare, heads, kv_heads and sizes too.
// projections: of queries, keys and values, in this order, whose products are prepare's q, k and v; count 0: these are
// there.
struct GqaAttention {
  GqaPrepare prepare;
  AttendCall attend;
  LinearCall projections;
};

// gqa_prepare() and attend(), as one launch if there are few rows, each of its own sequence, and max_context is short.
// workspace: of attend_workspace_bytes(); it and q_out are scratch and not always written.
// A row whose position is not in its sequence writes nothing to the cache, and what it gets means nothing.
// With projections gqa_one().
void gqa_attention(const GqaAttention& call, void* workspace, cudaStream_t stream);

// The one launch. Only if gqa_decode_fits(). Right for any context, meant for short ones.
bool gqa_decode_fits(const GqaAttention& call);
void gqa_decode(const GqaAttention& call, cudaStream_t stream);

// The projections too, in one launch, whose products do not come to memory: q, k, v and q_out are not touched. Only if
// gqa_one_fits(): one row, with a norm in front of matrices of codebook mul1 without biases, heads of 128 elements, and
// clusters of 16 CTAs for all of them on the current device at a time. Right for any context, meant for ones up to the
// longest max_context that fits.
bool gqa_one_fits(const GqaAttention& call);
void gqa_one(const GqaAttention& call, cudaStream_t stream);

// Error(kUsage) if the parts of a call do not fit together.
void check_gqa_attention(const GqaAttention& call);

}  // namespace fairway::kernels::cuda
