// The two halves of kv_b_proj in the absorbed form of multi-head latent attention: queries into the latent space, and
// what the heads read there back out of it.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/common/cuda/attend.cuh"

namespace fairway::kernels::cuda {

// What the weights of kv_b_proj are: halves, which is what checkpoints have, or bytes from quantize_rows_int8() with a
// scale for each row. Their errors go into all scores and values: on the bundled model those of bytes are two thirds of
// what the log-probabilities of a device differ from the CPU's.
enum class UpWeight { kHalf, kByte };

__host__ __device__ constexpr int up_weight_bytes(UpWeight type) {
  return type == UpWeight::kHalf ? 2 : 1;
}

// Calls f with the type as a constant.
template <class F>
auto with_up_weight(UpWeight type, F&& f) {
  if (type == UpWeight::kByte) return f(std::integral_constant<UpWeight, UpWeight::kByte>{});
  return f(std::integral_constant<UpWeight, UpWeight::kHalf>{});
}

// kv_b: [heads * (nope + v), latent] as in the checkpoint, head h owns rows h * (nope + v) ..: first nope rows for
// keys, then v rows for values. weights: 16-byte aligned device memory. scales: of the rows, with bytes. latent: a
// multiple of 64, at most 512. nope and v: multiples of 16, nope at most 256.
struct MlaUpProjection {
  UpWeight type;
  const void* weights;
  const float* scales;
  int heads, nope, v, latent;
};

// Error(kUsage) if kv_b_proj is none of the above, if there are no rows or more than a launch can have, or if ldo is no
// stride of the outputs below.
void check_mla_projection(const MlaUpProjection& up, int rows);
void check_mla_output(const MlaUpProjection& up, long long ldo);

// out[r, h, 0 .. latent) = sum over n of q[r, h, n] * kv_b[h * (nope + v) + n, :].
// q: [rows, heads, nope]. The query of row r and head h begins at out + (r * heads + h) * out_stride (a multiple of 8,
// at least latent); what lies between latent and out_stride is left alone. q and out 16-byte aligned. Sums in floats, q
// times scale and the result rounded to halves.
void mla_absorb(const MlaUpProjection& up, const __half* q, int rows, __half* out, int out_stride, cudaStream_t stream);

// out[r, h * v + j] = sum over c of kv_b[h * (nope + v) + nope + j, c] * mixed[r, h, c].
// mixed: [rows, heads, latent]. Row r begins at out + r * ldo (a multiple of 8, at least heads * v); what lies behind
// heads * v is left alone. mixed and out 16-byte aligned. Sums in floats, the result rounded to halves.
void mla_unfold(const MlaUpProjection& up, const __half* mixed, int rows, __half* out, long long ldo,
                cudaStream_t stream);

// attend() of call, whose heads and value_dim are heads and latent of `up`, and mla_unfold() of its result, with a
// launch less where rows are few. call.out is scratch of the size it has, and is not always written.
void mla_attend_unfold(const MlaUpProjection& up, const AttendCall& call, void* workspace, __half* out, long long ldo,
                       cudaStream_t stream);

}  // namespace fairway::kernels::cuda
