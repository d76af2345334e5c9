// Writing floats into the rows of a LayerCache.
#pragma once

#include <cuda_fp8.h>

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/pass.cuh"

namespace fairway::kernels::cuda {

// A row of the cache, or nothing where there is none: then stores do nothing.
template <CacheType kType>
class CacheRow {
 public:
  __device__ CacheRow(const LayerCache& cache, int sequence, int position) {
    if (sequence < 0 || position < 0 || position >= cache.sequence_rows) return;
    data_ =
        static_cast<unsigned char*>(cache.data) +
        (static_cast<long long>(sequence) * cache.sequence_rows + position) * cache.row_elems * cache_type_bytes_of();
  }

  // A copy of a row elsewhere, in shared memory say.
  __device__ explicit CacheRow(unsigned char* data) : data_(data) {}

  // Saturates; NaN stays NaN.
  __device__ void store(int element, float v) const {
    if (data_ == nullptr) return;
    if constexpr (kType == CacheType::kHalf) {
      reinterpret_cast<__half*>(data_)[element] = saturated_half(v);
    } else {
      data_[element] = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
    }
  }
  // kChunk elements, their first a multiple of kChunk, of a row that is there.
  __device__ __forceinline__ void store_chunk(int element, const float (&v)[kChunk]) const {
    if constexpr (kType == CacheType::kHalf) {
      store_halves<true>(reinterpret_cast<__half*>(data_) + element, kChunk, v);
    } else {
      unsigned words[2] = {};
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const unsigned byte = __nv_cvt_float_to_fp8(v[i], __NV_SATFINITE, __NV_E4M3);
        words[i / 4] |= byte << (8 * (i % 4));
      }
      *reinterpret_cast<uint2*>(data_ + element) = make_uint2(words[0], words[1]);
    }
  }

  __device__ bool there() const {
    return data_ != nullptr;
  }
  __device__ unsigned char* data() const {
    return data_;
  }

 private:
  __device__ static constexpr int cache_type_bytes_of() {
    return kType == CacheType::kHalf ? 2 : 1;
  }

  unsigned char* data_ = nullptr;
};

}  // namespace fairway::kernels::cuda
