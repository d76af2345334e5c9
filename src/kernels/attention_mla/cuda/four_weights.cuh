// Products of floats with weights of kv_b_proj, four at a time; signed bytes without converting them.
#pragma once

#include "kernels/attention_mla/cuda/int8_halves.cuh"
#include "kernels/attention_mla/cuda/mla_projection.cuh"

namespace fairway::kernels::cuda {

// A biased byte b = weight + 128 in the mantissa of a float of exponent 15 is 2^15 + b: one permutation. What is too
// much, x times kByteShift, is taken off the whole sum: that costs it 2^-9 of |x| in each term, where a weight has
// up to 127.
constexpr float kByteShift = 32768.0f + 128.0f;

template <int kByte>
__device__ __forceinline__ float shifted_byte(unsigned biased) {
  return __uint_as_float(__byte_perm(biased, 0x47000000u, 0x7404 | kByte << 4));
}

// sum[j] += (weight j + kByteShift) * x
__device__ __forceinline__ void add_shifted(float (&sum)[4], unsigned biased, float x) {
  sum[0] = fmaf(shifted_byte<0>(biased), x, sum[0]);
  sum[1] = fmaf(shifted_byte<1>(biased), x, sum[1]);
  sum[2] = fmaf(shifted_byte<2>(biased), x, sum[2]);
  sum[3] = fmaf(shifted_byte<3>(biased), x, sum[3]);
}
// sum += of four such products
__device__ __forceinline__ void add_shifted(float& sum, unsigned biased, float4 x) {
  sum = fmaf(shifted_byte<0>(biased), x.x, sum);
  sum = fmaf(shifted_byte<1>(biased), x.y, sum);
  sum = fmaf(shifted_byte<2>(biased), x.z, sum);
  sum = fmaf(shifted_byte<3>(biased), x.w, sum);
}

// Four neighbouring weights as they are stored, and sums of products with them.
template <UpWeight kType>
struct FourWeights;

template <>
struct FourWeights<UpWeight::kByte> {
  unsigned bytes;

  // Each times x, once finish() has had the sum of all x.
  __device__ __forceinline__ float4 shifted_floats() const {
    const unsigned biased = biased_bytes(bytes);
    return make_float4(shifted_byte<0>(biased), shifted_byte<1>(biased), shifted_byte<2>(biased),
                       shifted_byte<3>(biased));
  }
  // sum[j] += weight j * x, once finish() has had the sum of all x.
  __device__ __forceinline__ void add(float (&sum)[4], float x) const { add_shifted(sum, biased_bytes(bytes), x); }
  // sum += of four such products
  __device__ __forceinline__ void add(float& sum, float4 x) const { add_shifted(sum, biased_bytes(bytes), x); }
  __device__ static __forceinline__ void finish(float& sum, float of_x) { sum -= of_x * kByteShift; }
  __device__ static __forceinline__ float scale(const MlaUpProjection& up, long long row) { return up.scales[row]; }
  // Of four rows, the first a multiple of four; scales are 16-byte aligned.
  __device__ static __forceinline__ float4 four_scales(const MlaUpProjection& up, long long row) {
    return *reinterpret_cast<const float4*>(up.scales + row);
  }
};

template <>
struct FourWeights<UpWeight::kHalf> {
  uint2 pairs;

  __device__ __forceinline__ float4 floats() const {
    const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&pairs.x));
    const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&pairs.y));
    return make_float4(low.x, low.y, high.x, high.y);
  }
  __device__ __forceinline__ float4 shifted_floats() const { return floats(); }
  __device__ __forceinline__ void add(float (&sum)[4], float x) const {
    const float4 w = floats();
    sum[0] = fmaf(w.x, x, sum[0]);
    sum[1] = fmaf(w.y, x, sum[1]);
    sum[2] = fmaf(w.z, x, sum[2]);
    sum[3] = fmaf(w.w, x, sum[3]);
  }
  __device__ __forceinline__ void add(float& sum, float4 x) const {
    const float4 w = floats();
    sum = fmaf(w.x, x.x, sum);
    sum = fmaf(w.y, x.y, sum);
    sum = fmaf(w.z, x.z, sum);
    sum = fmaf(w.w, x.w, sum);
  }
  __device__ static __forceinline__ void finish(float&, float) {}
  __device__ static __forceinline__ float scale(const MlaUpProjection&, long long) { return 1.0f; }
  __device__ static __forceinline__ float4 four_scales(const MlaUpProjection&, long long) {
    return make_float4(1, 1, 1, 1);
  }
};

}  // namespace fairway::kernels::cuda
