// mla_prepare and gqa_prepare: one warp for every head of a row, and for what the row puts into the cache.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/cache_write.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/rope/cuda/rope_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

// Few warps a CTA, so that one row of a decode step spreads over the device.
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
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

// 1 / sqrt(mean(x^2) + eps) of n values, by a warp.
__device__ __forceinline__ float norm_scale(const float* x, int n, float eps) {
  float sum = 0;
  copy_elements<8>(
      n, [&](int i) { return x[i]; }, [&](int, float v) { sum = fmaf(v, v, sum); });
  return 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(n) + eps);
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

  // Element i is value(i), result i goes to store(i, result).
  template <class Value, class Store>
  __device__ __forceinline__ void rotate(const Value& value, const Store& store) {
    const int lane = threadIdx.x & 31;
    for (int begin = lane; begin < half_; begin += 32 * kPairs) {
      if (begin != lane) load_angles(begin);
      float a[kPairs], b[kPairs];
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const int i = min(begin + 32 * j, half_ - 1);
        a[j] = value(first(i));
        b[j] = value(second(i));
      }
      rotate_batch(begin, a, b, store);
    }
  }

 private:
  __device__ __forceinline__ bool adjacent() const {
    return angles_.layout == RopeLayout::kInterleaved;
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
  float cos_[kPairs], sin_[kPairs];
};

// The first elements of a row in a lane's registers: a latent of 512.
constexpr int kHeld = 16;

template <CacheType kType>
__device__ __forceinline__ void prepare_latent(const MlaPrepare& a, const float* kv, const float (&weight)[kHeld],
                                               const CacheRow<kType>& row) {
  const int lane = threadIdx.x & 31;
  float held[kHeld], sum = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) held[j] = lane + 32 * j < a.latent ? kv[lane + 32 * j] : 0.0f;
#pragma unroll
  for (const float v : held) sum = fmaf(v, v, sum);
  for (int i = lane + 32 * kHeld; i < a.latent; i += 32) sum = fmaf(kv[i], kv[i], sum);
  const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(a.latent) + a.eps);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    if (lane + 32 * j < a.latent) row.store(lane + 32 * j, held[j] * scale * weight[j]);
  }
  for (int i = lane + 32 * kHeld; i < a.latent; i += 32) row.store(i, kv[i] * scale * a.kv_norm[i]);
}

// Unit `heads` of a row is its cache row, the others are heads of the query.
template <CacheType kType>
__global__ void __launch_bounds__(kThreads) mla_prepare_kernel(const __grid_constant__ MlaPrepare a) {
  const int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x >> 5);
  const int lane = threadIdx.x & 31;
  const long long r = blockIdx.y;
  const int rope = a.angles.dim, position = a.rows.position[r], sequence = a.rows.sequence[r];
  Rotation rotation(a.angles, position);
  float weight[kHeld] = {};
  if (unit == a.heads) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) weight[j] = lane + 32 * j < a.latent ? a.kv_norm[lane + 32 * j] : 0.0f;
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (unit > a.heads) return;
  if (unit < a.heads) {
    const float* const q = a.q + r * a.ldq + static_cast<long long>(unit) * (a.nope + rope);
    __half* const q_nope = a.q_nope + (r * a.heads + unit) * a.nope;
    __half* const q_rope = a.q_full + (r * a.heads + unit) * (a.latent + rope) + a.latent;
    rotation.rotate([&](int i) { return q[a.nope + i]; }, [&](int i, float v) { q_rope[i] = saturated_half(v); });
    copy_elements<8>(
        a.nope, [&](int i) { return q[i]; }, [&](int i, float v) { q_nope[i] = saturated_half(v); });
    return;
  }
  const float* const kv = a.kv + r * a.ldkv;
  const CacheRow<kType> row(a.cache, sequence, position);
  rotation.rotate([&](int i) { return kv[a.latent + i]; }, [&](int i, float v) { row.store(a.latent + i, v); });
  prepare_latent(a, kv, weight, row);
}

// A head that is rotated as a whole by one batch of pairs: every load is under way at once.
template <class Store>
__device__ __forceinline__ void prepare_short_head(const GqaPrepare& a, const Rotation& rotation, const float* x,
                                                   const float* weight, const Store& store) {
  const int lane = threadIdx.x & 31, half = a.dim / 2;
  float first[kPairs], second[kPairs], sum = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + 32 * j;
    first[j] = i < half ? x[rotation.first(i)] : 0.0f;
    second[j] = i < half ? x[rotation.second(i)] : 0.0f;
  }
  if (weight != nullptr) {
    float first_weight[kPairs], second_weight[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = lane + 32 * j;
      first_weight[j] = i < half ? weight[rotation.first(i)] : 0.0f;
      second_weight[j] = i < half ? weight[rotation.second(i)] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sum = fmaf(first[j], first[j], fmaf(second[j], second[j], sum));
    const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(a.dim) + a.eps);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      first[j] = first[j] * scale * first_weight[j];
      second[j] = second[j] * scale * second_weight[j];
    }
  }
  rotation.rotate_batch(lane, first, second, store);
}

// Norm and rotation of one head, by a warp.
template <class Store>
__device__ __forceinline__ void prepare_head(const GqaPrepare& a, Rotation& rotation, const float* x,
                                             const float* weight, const Store& store) {
  if (a.angles.dim == a.dim && a.dim <= 2 * 32 * kPairs) {
    prepare_short_head(a, rotation, x, weight, store);
    return;
  }
  const float scale = weight != nullptr ? norm_scale(x, a.dim, a.eps) : 1.0f;
  const auto value = [&](int i) { return weight != nullptr ? x[i] * scale * weight[i] : x[i]; };
  rotation.rotate(value, store);
  for (int i = a.angles.dim + static_cast<int>(threadIdx.x & 31); i < a.dim; i += 32) store(i, value(i));
}

// Units of a row: heads of the query, then of the keys, then of the values.
template <CacheType kType>
__global__ void __launch_bounds__(kThreads) gqa_prepare_kernel(const __grid_constant__ GqaPrepare a) {
  const int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x >> 5);
  const long long r = blockIdx.y;
  const int position = a.rows.position[r], sequence = a.rows.sequence[r];
  Rotation rotation(a.angles, position);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (unit >= a.heads + 2 * a.kv_heads) return;
  if (unit < a.heads) {
    __half* const out = a.q_out + (r * a.heads + unit) * a.dim;
    prepare_head(a, rotation, a.q + r * a.ldq + static_cast<long long>(unit) * a.dim, a.q_norm,
                 [&](int i, float v) { out[i] = saturated_half(v); });
    return;
  }
  const CacheRow<kType> row(a.cache, sequence, position);
  const int at = (unit - a.heads) * a.dim;  // in the cache's row
  if (unit < a.heads + a.kv_heads) {
    prepare_head(a, rotation, a.k + r * a.ldk + at, a.k_norm, [&](int i, float v) { row.store(at + i, v); });
  } else {
    const float* const v = a.v + r * a.ldv + (at - a.kv_heads * a.dim);
    copy_elements<4>(
        a.dim, [&](int i) { return v[i]; }, [&](int i, float value) { row.store(at + i, value); });
  }
}

void check(const std::string& name, const RopeAngles& angles, const PassRows& rows, const LayerCache& cache, int heads,
           int elements) {
  using std::to_string;
  if (rows.count < 1 || rows.count > 65535 || heads < 1 || angles.positions < 1 || angles.dim < 0 ||
      angles.dim % 2 != 0) {
    throw Error(ErrorKind::kUsage, name + ": " + to_string(rows.count) + " rows, " + to_string(heads) + " heads, " +
                                       to_string(angles.dim) + " rotated elements, angles of " +
                                       to_string(angles.positions) +
                                       " positions; expected 1 to 65535 rows, an even dimension, 1 position or more");
  }
  if (elements > cache.row_elems || cache.sequence_rows < 1) {
    throw Error(ErrorKind::kUsage, name + ": a cache of " + to_string(cache.sequence_rows) + " rows of " +
                                       to_string(cache.row_elems) + " elements, expected 1 row or more of " +
                                       to_string(elements));
  }
}

void require_strides(bool enough, const std::string& name, long long q, long long kv) {
  if (enough) return;
  throw Error(ErrorKind::kUsage, name + ": row strides " + std::to_string(q) + " (q) and " + std::to_string(kv) +
                                     " (keys and values) are less than a row, or sizes are out of range");
}

LaunchShape shape_of(int units, int rows) {
  return {dim3(static_cast<unsigned>((units + kWarps - 1) / kWarps), static_cast<unsigned>(rows)), kThreads};
}

}  // namespace

void mla_prepare(const MlaPrepare& call, cudaStream_t stream) {
  check("mla_prepare", call.angles, call.rows, call.cache, call.heads, call.latent + call.angles.dim);
  require_strides(call.nope >= 0 && call.latent >= 1 && call.ldkv >= call.latent + call.angles.dim &&
                      call.ldq >= static_cast<long long>(call.heads) * (call.nope + call.angles.dim),
                  "mla_prepare", call.ldq, call.ldkv);
  const auto kernel =
      call.cache.type == CacheType::kHalf ? mla_prepare_kernel<CacheType::kHalf> : mla_prepare_kernel<CacheType::kE4m3>;
  backend::check_cuda(launch(kernel, shape_of(call.heads + 1, call.rows.count), stream, call), "mla_prepare");
}

void gqa_prepare(const GqaPrepare& call, cudaStream_t stream) {
  check("gqa_prepare", call.angles, call.rows, call.cache, call.heads, 2 * call.kv_heads * call.dim);
  const long long kv = static_cast<long long>(call.kv_heads) * call.dim;
  require_strides(call.kv_heads >= 1 && call.dim >= 1 && call.angles.dim <= call.dim && call.ldk >= kv &&
                      call.ldv >= kv && call.ldq >= static_cast<long long>(call.heads) * call.dim,
                  "gqa_prepare", call.ldq, std::min(call.ldk, call.ldv));
  const auto kernel =
      call.cache.type == CacheType::kHalf ? gqa_prepare_kernel<CacheType::kHalf> : gqa_prepare_kernel<CacheType::kE4m3>;
  backend::check_cuda(launch(kernel, shape_of(call.heads + 2 * call.kv_heads, call.rows.count), stream, call),
                      "gqa_prepare");
}

}  // namespace fairway::kernels::cuda
