// Rotary position embedding of one position, by a warp.
#pragma once

#include "kernels/rope/cuda/rope_cuda.cuh"

namespace fairway::kernels::cuda {

constexpr int kPairs = 2;  // of rotated elements that a lane has at a time: heads of 128 elements

// store(i, value(i)) for all i below n, by a warp. All values of a batch are under way before the first is stored.
template <int kBatch, class Value, class Store>
__device__ __forceinline__ void copy_elements(int n, const Value& value, const Store& store) {
  for (int first = threadIdx.x & 31; first < n; first += 32 * kBatch) {
    float v[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) v[j] = first + 32 * j < n ? value(first + 32 * j) : 0.0f;
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (first + 32 * j < n) store(first + 32 * j, v[j]);
    }
  }
}

// The rotation of one position, by a warp. The angles of a lane's first pairs are loaded at once, before the values are
// there: they depend on the position alone.
class Rotation {
 public:
  __device__ __forceinline__ Rotation(const RopeAngles& angles, int position)
      : angles_(angles),
        half_(angles.dim / 2),
        row_(static_cast<long long>(min(max(position, 0), angles.positions - 1)) * half_) {
    load_angles(threadIdx.x & 31);
  }

  // Elements of the pair i that lie at first(i) and second(i), and are stored at i and i + dim/2.
  __device__ __forceinline__ int first(int i) const { return adjacent() ? 2 * i : i; }
  __device__ __forceinline__ int second(int i) const { return adjacent() ? 2 * i + 1 : i + half_; }

  // Rotates the lane's pairs from `begin` on, a batch: a and b are their elements.
  template <class Store>
  __device__ __forceinline__ void rotate_batch(int begin, const float (&a)[kPairs], const float (&b)[kPairs],
                                               const Store& store) const {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = begin + 32 * j;
      if (i >= half_) break;
      store(i, a[j] * cos_[j] - b[j] * sin_[j]);
      store(i + half_, b[j] * cos_[j] + a[j] * sin_[j]);
    }
  }

  // Loads the lane's first batch of elements; element i is value(i).
  template <class Value>
  __device__ __forceinline__ void load(const Value& value) {
    load_batch(value, threadIdx.x & 31);
  }

  // After load(). Result i goes to store(i, result).
  template <class Value, class Store>
  __device__ __forceinline__ void rotate(const Value& value, const Store& store) {
    const int lane = threadIdx.x & 31;
    for (int begin = lane; begin < half_; begin += 32 * kPairs) {
      if (begin != lane) {
        load_angles(begin);
        load_batch(value, begin);
      }
      rotate_batch(begin, a_, b_, store);
    }
  }

 private:
  __device__ __forceinline__ bool adjacent() const {
    return angles_.layout == RopeLayout::kInterleaved;
  }
  template <class Value>
  __device__ __forceinline__ void load_batch(const Value& value, int begin) {
    if (half_ == 0) return;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = min(begin + 32 * j, half_ - 1);
      a_[j] = value(first(i));
      b_[j] = value(second(i));
    }
  }
  __device__ __forceinline__ void load_angles(int begin) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = begin + 32 * j;
      cos_[j] = i < half_ ? angles_.cos[row_ + i] : 0.0f;
      sin_[j] = i < half_ ? angles_.sin[row_ + i] : 0.0f;
    }
  }

  const RopeAngles& angles_;
  int half_;
  long long row_;
  float cos_[kPairs], sin_[kPairs], a_[kPairs], b_[kPairs];
};

}  // namespace fairway::kernels::cuda
