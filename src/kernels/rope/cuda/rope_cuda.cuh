// Between the projections of an attention block and the attention itself: norms, rotation, the row of the cache, and
// queries as halves. What src/model/attention_block.cc does there on the CPU, in the same order.
//
// Rows whose position is not in 0..sequence_rows-1, or whose sequence is negative, write nothing to the cache; what
// their queries get is finite but means nothing. Sequences and positions, norms and angles are read before the previous
// kernel on the stream has ended: it must be an earlier one that wrote them. Halves and E4M3 saturate. Sums are fp32 in
// one fixed order.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/common/cuda/pass.cuh"
#include "kernels/rope/rope.h"

namespace fairway::kernels::cuda {

// kernels::RopeTable on the device.
struct RopeAngles {
  const float* cos;  // [positions, dim/2]
  const float* sin;
  int positions;      // >= 1
  int dim;            // even
  RopeLayout layout;  // kInterleaved: the result is de-interleaved, as apply_rope() has it
};

// Strides are in elements, pointers are device pointers.
struct MlaPrepare {
  const float* q;  // [rows, heads, nope + rope], row stride ldq
  long long ldq;
  const float* kv;  // [rows, latent + rope], row stride ldkv
  long long ldkv;
  const float* kv_norm;  // [latent]
  float eps;
  int heads, nope, latent;  // rope is angles.dim
  RopeAngles angles;
  PassRows rows;
  LayerCache cache;  // rows [latent after its norm | rotated key]
  __half* q_nope;    // [rows, heads, nope]
  __half* q_full;    // [rows, heads, latent + rope]; only the last rope elements of a head are written, rotated
};

struct GqaPrepare {
  const float *q, *k, *v;  // [rows, heads, dim], [rows, kv_heads, dim] twice; row strides
  long long ldq, ldk, ldv;
  const float *q_norm, *k_norm;  // [dim], or null for no norm
  float eps;
  int heads, kv_heads, dim;
  RopeAngles angles;  // of the first angles.dim <= dim elements of a head
  PassRows rows;
  LayerCache cache;  // rows [keys of all heads | values of all heads]
  __half* q_out;     // [rows, heads, dim]
};

// Error(kUsage) if a number is out of range or a row does not fit the cache's.
void check_mla_prepare(const MlaPrepare& call);
void check_gqa_prepare(const GqaPrepare& call);

void mla_prepare(const MlaPrepare& call, cudaStream_t stream);
void gqa_prepare(const GqaPrepare& call, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
