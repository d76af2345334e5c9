// Grouped-query attention of decode steps over short contexts: from the projections of a row to what the output
// projection reads, in one launch.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/common/cuda/attend.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"

namespace fairway::kernels::cuda {

// attend: its q is prepare.q_out, its rows and cache are those of prepare, heads, kv_heads and sizes too.
struct GqaAttention {
  GqaPrepare prepare;
  AttendCall attend;
};

// gqa_prepare() and attend(), as one launch if there are few rows, each of its own sequence, and max_context is short.
// workspace: of attend_workspace_bytes(); it and q_out are scratch and not always written.
// A row whose position is not in its sequence writes nothing to the cache, and what it gets means nothing.
void gqa_attention(const GqaAttention& call, void* workspace, cudaStream_t stream);

// The one launch. Only if gqa_decode_fits(). Right for any context, meant for short ones.
bool gqa_decode_fits(const GqaAttention& call);
void gqa_decode(const GqaAttention& call, cudaStream_t stream);

// The same by clusters of CTAs that share a row's positions, for longer contexts. Only if gqa_cluster_fits(): heads of
// 128 elements, rotated as a whole, and a multiple of four query heads for each key/value head, on a GPU with clusters.
bool gqa_cluster_fits(const GqaAttention& call);
void gqa_cluster(const GqaAttention& call, cudaStream_t stream);

// Error(kUsage) if the parts of a call do not fit together.
void check_gqa_attention(const GqaAttention& call);

}  // namespace fairway::kernels::cuda
