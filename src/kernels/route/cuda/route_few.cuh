// norm_and_route for few rows, where latency is everything: a cluster of eight CTAs a row.
//
// Every CTA reads the whole row and an eighth of the experts. Thread t of a group of 256 has columns 8t..8t+7 (and
// those 2048 further on) for eight experts at a time, so the router's weights are in registers before the row is there,
// and the sum of squares and all dot products need one reduction: logits are dot(weight, x * norm weight) * scale.
// Logits meet in the shared memory of CTA 0. x is written after the cluster's last barrier, when all have read it.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/route/cuda/choose.cuh"

namespace fairway::kernels::cuda {

constexpr int kFewGroup = 256;  // threads that share a row's columns
constexpr int kFewGroupWarps = kFewGroup / 32;
constexpr int kFewCluster = 8;
constexpr int kFewExperts = 8;  // that a thread serves at a time

__host__ __device__ inline int few_experts_of_cta(int experts) {
  return (experts + kFewCluster - 1) / kFewCluster;
}
constexpr int kFewBarrierBytes = 16;
inline int few_shared_bytes(int experts) {
  return choice_bytes(experts) + kFewBarrierBytes +
         (few_experts_of_cta(experts) + 1) * kFewGroupWarps * static_cast<int>(sizeof(float));
}

// kThreads: kFewGroup times the number of groups. For aligned calls only.
template <DenseType kType, int kChunks, int kThreads>
__global__ void __launch_bounds__(kThreads) route_few_kernel(const __grid_constant__ RouteCall a) {
  constexpr int kGroups = kThreads / kFewGroup;
  const int rank = static_cast<int>(cooperative_groups::this_cluster().block_rank());
  const int group = static_cast<int>(threadIdx.x) / kFewGroup, t = static_cast<int>(threadIdx.x) % kFewGroup;
  const int warp = t >> 5, lane = t & 31;
  const int n = a.norm.n;
  const long long row = blockIdx.x / kFewCluster;
  const int share = few_experts_of_cta(a.experts), first_expert = rank * share;
  const int experts = max(0, min(share, a.experts - first_expert));  // of this CTA
  unsigned char* const memory = dynamic_shared<unsigned char>();
  const ChoiceMemory choice = ChoiceMemory::at(memory, a.experts);
  auto* const all_here = reinterpret_cast<std::uint64_t*>(memory + choice_bytes(a.experts));
  float* const squares = reinterpret_cast<float*>(memory + choice_bytes(a.experts) + kFewBarrierBytes);  // [warps]
  float* const dots = squares + kFewGroupWarps;  // [experts of the CTA][warps]
  if (rank == 0 && threadIdx.x == 0) {
    barrier_init(all_here, 1);
    barrier_init_fence();
    barrier_expect(all_here, a.experts * static_cast<int>(sizeof(float)));
  }
  __syncwarp();
  cluster_arrive();

  const auto column = [t](int c) { return kChunk * (c * kFewGroup + t); };
  using Chunk = DenseChunk<kType, true>;
  const auto load_weights = [&](int first, int c, Chunk(&w)[kFewExperts]) {
#pragma unroll
    for (int i = 0; i < kFewExperts; ++i) {
      const bool exists = first + i < experts;
      w[i].load(a.weight, static_cast<long long>(first_expert + (exists ? first + i : 0)) * n + column(c),
                exists ? n - column(c) : 0);
    }
  };
  Chunk w[kFewExperts];
  load_weights(group * kFewExperts, 0, w);
  float v[kChunks][kChunk], scaled[kChunks][kChunk];  // x, and x * norm weight
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats<true>(a.norm.weight + column(c), n - column(c), scaled[c]);
  cluster_wait();  // CTA 0 has started: its shared memory may be written
  wait_for_previous_kernel();
  let_next_kernel_start();

#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats<true>(a.norm.x + row * a.norm.ldx + column(c), n - column(c), v[c]);
  if (a.norm.add != nullptr) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      float other[kChunk];
      load_floats<true>(a.norm.add + row * a.norm.ldadd + column(c), n - column(c), other);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[c][i] += other[i];
    }
  }
  float square = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      square = fmaf(v[c][i], v[c][i], square);
      scaled[c][i] *= v[c][i];
    }
  }
  square = warp_sum(square);
  if (group == 0 && lane == 0) squares[warp] = square;
  for (int first = group * kFewExperts; first < experts; first += kGroups * kFewExperts) {
    float dot[kFewExperts] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (first >= kGroups * kFewExperts || c > 0) load_weights(first, c, w);
#pragma unroll
      for (int i = 0; i < kFewExperts; ++i) {
        float values[kChunk];
        w[i].unpack(values);
#pragma unroll
        for (int j = 0; j < kChunk; ++j) dot[i] = fmaf(values[j], scaled[c][j], dot[i]);
      }
    }
    const float sum = spread_sum(dot);
    const int expert = first + lane / (32 / kFewExperts);
    if (lane % (32 / kFewExperts) == 0 && expert < experts) dots[expert * kFewGroupWarps + warp] = sum;
  }
  __syncthreads();
  const bool writes_x = a.norm.add != nullptr;
  if (writes_x) cluster_arrive();  // this CTA has used what it read of x

  float square_sum = 0;
#pragma unroll
  for (int i = 0; i < kFewGroupWarps; ++i) square_sum += squares[i];
  const float scale = 1.0f / sqrtf(square_sum / static_cast<float>(n) + a.norm.eps);
  if (static_cast<int>(threadIdx.x) < experts) {
    float logit = 0;
#pragma unroll
    for (int i = 0; i < kFewGroupWarps; ++i) logit += dots[threadIdx.x * kFewGroupWarps + i];
    logit *= scale;
    const int expert = first_expert + static_cast<int>(threadIdx.x);
    send_to_cluster(choice.logits + expert, all_here, 0, logit);
    if (a.logits != nullptr) a.logits[row * a.experts + expert] = logit;
  }
  // A warp's chunks are written by one CTA of the cluster.
  const auto owns = [&](int c) { return group == 0 && (c * kFewGroupWarps + warp) % kFewCluster == rank; };
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (!owns(c)) continue;
    const int valid = n - column(c);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) scaled[c][i] = i < valid ? scaled[c][i] * scale : 0.0f;
    store_halves<true>(a.norm.out + row * a.norm.ldo + column(c), a.norm.padded - column(c), scaled[c]);
    if (a.norm.out_fp32 != nullptr) store_floats<true>(a.norm.out_fp32 + row * n + column(c), valid, scaled[c]);
  }
  if (writes_x) {
    __syncwarp();
    cluster_wait();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (owns(c)) store_floats<true>(a.norm.x + row * a.norm.ldx + column(c), n - column(c), v[c]);
    }
  }
  if (rank != 0) return;
  barrier_wait_cluster(all_here, 0);
  choose_experts<kThreads>(a, row, static_cast<int>(threadIdx.x), choice);
}

}  // namespace fairway::kernels::cuda
