// Multi-head latent attention of decode steps: from the projections of a row to what the output projection reads.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/common/cuda/attend.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda {

// The linear layer that the queries of a single row come from, if the attention is to do it: y = norm W in the terms of
// trellis_linear(). norm: add and sum are null; norm.x null: the queries are in MlaPrepare::q already.
struct MlaQuery {
  LinearNorm norm;
  int in;             // a multiple of 128, at least norm.n
  TrellisRef matrix;  // [in, heads * (nope + rope)]
};

// prepare: q, kv, q_full 16-byte aligned, row strides multiples of 4: otherwise it takes more launches. attend: its q
// is prepare.q_full, its rows and cache are those of prepare, heads and value_dim those of `up`.
struct MlaAttention {
  MlaQuery query;  // with it prepare.q is not used
  MlaPrepare prepare;
  MlaUpProjection up;
  AttendCall attend;
  __half* out;    // [rows, heads * v], 16-byte aligned
  long long ldo;  // a multiple of 8, at least heads * v; what lies behind heads * v is left alone
};

// mla_prepare(), mla_absorb() and mla_attend_unfold(), in as few launches as the number of rows and max_context allow:
// one for a single row and a short context. q_nope, q_full, attend.out and the workspace, of attend_workspace_bytes(),
// are scratch and not always written. Results are as near to exact ones as those of the single calls, but which
// launches they come from shows in their last bits. A row whose position is not in its sequence writes nothing to the
// cache, and what it gets means nothing. With a query: only if mla_query_fits().
void mla_attention(const MlaAttention& call, void* workspace, cudaStream_t stream);

// Whether the attention can do call.query, and is the better for it: on the current device.
bool mla_query_fits(const MlaAttention& call);

// One launch: a cluster for every row and head. Only if mla_decode_fits(), and without a query. Right for any context,
// meant for short ones.
bool mla_decode_fits(const MlaAttention& call);
void mla_decode(const MlaAttention& call, cudaStream_t stream);

// call.query, mla_prepare() and mla_absorb() in one launch, for a single row and if mla_query_absorb_fits().
bool mla_query_absorb_fits(const MlaAttention& call);
void mla_query_absorb(const MlaAttention& call, cudaStream_t stream);

// mla_prepare() and mla_absorb() in one launch, for up to 64 rows and if mla_prepare_absorb_fits().
bool mla_prepare_absorb_fits(const MlaPrepare& prepare, const MlaUpProjection& up);
void mla_prepare_absorb(const MlaPrepare& prepare, const MlaUpProjection& up, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
