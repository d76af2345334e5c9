// norm_and_route for many rows: a CTA takes kRows rows, so that the router's weights are read once for all of them.
//
// A warp takes a row to norm it into shared memory, then four experts at a time for all rows, each lane chunks of eight
// columns; a warp takes a row again to choose.
#pragma once

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/route/cuda/choose.cuh"

namespace fairway::kernels::cuda {

constexpr int kManyThreads = 256;
constexpr int kManyWarps = kManyThreads / 32;
constexpr int kManyExperts = 4;  // that a warp serves at a time

inline int many_shared_bytes(int rows, int padded, int experts) {
  return rows * (choice_bytes(experts) + (padded + kChunk - 1) / kChunk * kChunk * static_cast<int>(sizeof(float)));
}

// Rows of x in shared memory: the first halves of all chunks, then the second ones, so that neighbouring lanes read
// neighbouring 16 bytes.
template <int kRows>
struct NormedRows {
  float* data;  // [kRows][2][chunks][4]
  int chunks;

  __device__ float4* half_chunk(int r, int half, int c) const {
    return reinterpret_cast<float4*>(data + ((r * 2 + half) * chunks + c) * 4);
  }
  __device__ void put(int r, int c, const float (&v)[kChunk]) const {
    *half_chunk(r, 0, c) = make_float4(v[0], v[1], v[2], v[3]);
    *half_chunk(r, 1, c) = make_float4(v[4], v[5], v[6], v[7]);
  }
  __device__ void get(int r, int c, float (&v)[kChunk]) const {
    const float4 p = *half_chunk(r, 0, c), q = *half_chunk(r, 1, c);
    v[0] = p.x, v[1] = p.y, v[2] = p.z, v[3] = p.w;
    v[4] = q.x, v[5] = q.y, v[6] = q.z, v[7] = q.w;
  }
};

// One row by one warp; a row that does not exist becomes zeros.
template <int kRows, bool kAligned>
__device__ inline void norm_row(const NormCall& a, long long row, int r, const NormedRows<kRows>& rows) {
  const int lane = threadIdx.x & 31;
  const bool exists = row < a.rows;
  float square = 0;
  for (int c = lane; c < rows.chunks; c += 32) {
    const int col = c * kChunk, valid = exists ? a.n - col : 0;
    float v[kChunk];
    load_floats<kAligned>(a.x + row * a.ldx + col, valid, v);
    if (a.add != nullptr) {
      float other[kChunk];
      load_floats<kAligned>(a.add + row * a.ldadd + col, valid, other);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[i] += other[i];
      store_floats<kAligned>(a.x + row * a.ldx + col, valid, v);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) square = fmaf(v[i], v[i], square);
    rows.put(r, c, v);
  }
  if (!exists) return;
  const float scale = 1.0f / sqrtf(warp_sum(square) / static_cast<float>(a.n) + a.eps);
  for (int c = lane; c < rows.chunks; c += 32) {
    const int col = c * kChunk, valid = a.n - col;
    float v[kChunk], weight[kChunk];
    load_floats<kAligned>(a.weight + col, valid, weight);
    rows.get(r, c, v);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = i < valid ? v[i] * scale * weight[i] : 0.0f;
    rows.put(r, c, v);
    store_halves<kAligned>(a.out + row * a.ldo + col, a.padded - col, v);
    if (a.out_fp32 != nullptr) store_floats<kAligned>(a.out_fp32 + row * a.n + col, valid, v);
  }
}

template <DenseType kType, bool kAligned, int kRows>
__global__ void __launch_bounds__(kManyThreads, 2) route_many_kernel(const __grid_constant__ RouteCall a) {
  static_assert(kRows <= kManyWarps && kManyExperts * kRows <= 32);
  const int warp = static_cast<int>(threadIdx.x >> 5), lane = static_cast<int>(threadIdx.x & 31);
  const int n = a.norm.n;
  unsigned char* const memory = dynamic_shared<unsigned char>();
  const auto choice = [&](int r) { return ChoiceMemory::at(memory + r * choice_bytes(a.experts), a.experts); };
  const NormedRows<kRows> rows{reinterpret_cast<float*>(memory + kRows * choice_bytes(a.experts)),
                               (a.norm.padded + kChunk - 1) / kChunk};
  const long long first_row = static_cast<long long>(blockIdx.x) * kRows;
  if (warp < kRows) load_bias(a, lane, 32, choice(warp));
  const unsigned number = route_number(a.announced);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (warp < kRows) norm_row<kRows, kAligned>(a.norm, first_row + warp, warp, rows);
  __syncthreads();

  for (int first = warp * kManyExperts; first < a.experts; first += kManyWarps * kManyExperts) {
    float dot[kManyExperts * kRows] = {};
    for (int c = lane; c * kChunk < n; c += 32) {
      float w[kManyExperts][kChunk];
#pragma unroll
      for (int e = 0; e < kManyExperts; ++e) {
        DenseChunk<kType, kAligned> chunk;
        chunk.load(a.weight, static_cast<long long>(min(first + e, a.experts - 1)) * n + c * kChunk, n - c * kChunk);
        chunk.unpack(w[e]);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float v[kChunk];
        rows.get(r, c, v);
#pragma unroll
        for (int e = 0; e < kManyExperts; ++e) {
#pragma unroll
          for (int i = 0; i < kChunk; ++i) dot[e * kRows + r] = fmaf(w[e][i], v[i], dot[e * kRows + r]);
        }
      }
    }
    constexpr int kLanes = 32 / (kManyExperts * kRows);  // that get the same sum
    const float logit = spread_sum(dot);
    const int e = first + lane / kLanes / kRows, r = lane / kLanes % kRows;
    if (lane % kLanes == 0 && e < a.experts) {
      choice(r).logits[e] = logit;
      const long long row = first_row + r;
      if (a.logits != nullptr && row < a.norm.rows) a.logits[row * a.experts + e] = logit;
    }
  }
  __syncthreads();
  if (warp < kRows && first_row + warp < a.norm.rows)
    choose_experts<32>(a, first_row + warp, lane, choice(warp), number);
}

}  // namespace fairway::kernels::cuda
