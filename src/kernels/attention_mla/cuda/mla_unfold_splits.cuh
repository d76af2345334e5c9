// The value half of kv_b_proj for a few rows, straight from what the splits of attention left. Each CTA merges the
// results of its head again: a little more to read, and one kernel less to wait for.
#pragma once

#include <cuda_fp16.h>

#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/mla_projection_few.cuh"
#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/attend_merge.cuh"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

constexpr int kSplitsThreads = 512, kSplitsOutputs = 64,
              kSplitsRows = 8;  // of a CTA: 4 tiles of outputs, 4 parts of a sum
constexpr int kSplitsParts = 4, kSplitsChunks = kMaxLatent / 64 / kSplitsParts;
constexpr int kSplitsBatch = 8;

// Shared memory, floats but for x.
struct SplitsMemory {
  static constexpr int kSumStride = kSplitsOutputs + kFewPad;
  int merged_floats, x_stride;  // halves between rows of x

  __host__ __device__ explicit SplitsMemory(int latent)
      : merged_floats(kSplitsThreads * 8 + kSplitsThreads), x_stride(latent + 8) {}
  __host__ __device__ int bytes() const {
    return 4 * (merged_floats + kSplitsParts * kSplitsRows * kSumStride) + 2 * kSplitsRows * x_stride;
  }
};

// Rows [r0, r0 + count) of a head's latent results, as halves to x. Groups of threads share a row's splits.
__device__ inline void merge_rows(const AttendArgs& args, int head, int r0, int count, float* merged, __half* x,
                                  int x_stride) {
  const int latent = args.call.value_dim, pieces = latent / 8, groups = kSplitsThreads / pieces;
  const int of_row = groups / count;  // at least 1: no more than 64 pieces and 8 rows
  const int thread = static_cast<int>(threadIdx.x), piece = thread % pieces, group = thread / pieces;
  float* const totals = merged + kSplitsThreads * 8;
  for (int r = 0; r < count; ++r) {
    const long long query = static_cast<long long>(r0 + r) * args.call.heads + head;
    const float* const weights = args.weights + query * args.splits;
    const int used = attend_used_splits(args.call.rows.position[r0 + r], args.splits);
    const float most = largest_weight(weights, used);
    if (group / of_row != r) continue;
    float sum[8] = {}, total = 0;
    merge_splits<kSplitsBatch>(args.partial + query * args.splits * latent + 8 * piece, latent, weights, used, most,
                               group % of_row, of_row, sum, total);
    auto* const to = reinterpret_cast<float4*>(merged + group * latent + 8 * piece);
    to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    if (piece == 0) totals[group] = total;
  }
  __syncthreads();
  for (int i = thread; i < count * latent; i += kSplitsThreads) {
    const int r = i / latent, c = i % latent;
    float sum = 0, total = 0;
    for (int g = r * of_row; g < (r + 1) * of_row; ++g) sum += merged[g * latent + c], total += totals[g];
    x[r * x_stride + c] = __float2half_rn(sum / total);
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kSplitsThreads)
    unfold_splits_kernel(const MlaUpProjection up, const __grid_constant__ AttendArgs args, __half* out,
                         long long ldo) {
  const SplitsMemory memory(up.latent);
  constexpr int kStride = SplitsMemory::kSumStride, kPart = kSplitsRows * kStride;
  auto* const merged = dynamic_shared<float>();
  float* const sums = merged + memory.merged_floats;  // [parts][kSplitsRows][kStride]
  auto* const x = reinterpret_cast<__half*>(sums + kSplitsParts * kPart);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, i = lane % 4, part = warp / 4, tile = warp % 4;
  const int blocks = (up.v + kSplitsOutputs - 1) / kSplitsOutputs;
  const int head = static_cast<int>(blockIdx.x) / blocks,
            first = static_cast<int>(blockIdx.x) % blocks * kSplitsOutputs;
  UnfoldWeights<kSplitsChunks, kSplitsParts> weights;
  weights.load(up, head, first + 16 * tile, part, lane);
  const int row = static_cast<int>(threadIdx.x) / kSplitsOutputs,
            column = static_cast<int>(threadIdx.x) % kSplitsOutputs;
  const bool stores = first + column < up.v;
  const long long output = static_cast<long long>(head) * up.v + first + column;
  const float scale =
      stores ? up.scales[static_cast<long long>(head) * (up.nope + up.v) + up.nope + first + column] : 0.0f;
  wait_with_weights(weights.a);
  let_next_kernel_start();

  const int rows = args.call.rows.count;
  for (int r0 = 0; r0 < rows; r0 += kSplitsRows) {
    const int count = min(kSplitsRows, rows - r0);
    merge_rows(args, head, r0, count, merged, x, memory.x_stride);
    float d[4] = {};
    weights.multiply(x + min(g, count - 1) * memory.x_stride, d);
    float* const mine = sums + part * kPart + 2 * i * kStride + 16 * tile + g;
    for (int e = 0; e < 4; ++e) mine[e % 2 * kStride + e / 2 * 8] = d[e];
    __syncthreads();
    if (row < count && stores) {
      float sum = 0;
      for (int p = 0; p < kSplitsParts; ++p) sum += sums[p * kPart + row * kStride + column];
      out[(r0 + row) * ldo + output] = __float2half_rn(sum * scale);
    }
  }
}

}  // namespace fairway::kernels::cuda
