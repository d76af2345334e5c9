// norm_and_route for few rows, where latency is everything: a cluster of eight CTAs for one row or a few.
//
// Every CTA reads the whole row and an eighth of the experts. Thread t of a group of 256 has columns 8t..8t+7 (and
// those 2048 further on) for eight experts at a time, so the router's weights are in registers before the row is there,
// and the sum of squares and all dot products need one reduction: logits are dot(weight, x * norm weight) * scale.
// Logits of the cluster's row r meet in the shared memory of CTA r, which chooses. CTA 7 - r writes the row, x after
// the cluster's last barrier, when all have read it.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/cluster.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"
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
inline int few_shared_bytes(int experts, int rows) {
  return choice_bytes(experts) + kFewBarrierBytes +
         rows * (few_experts_of_cta(experts) + 1) * kFewGroupWarps * static_cast<int>(sizeof(float));
}

struct RouteFewArgs {
  RouteCall call;
  int rows;  // of a cluster, 1..kFewCluster; 1 where a thread has several chunks of a row
};

// kThreads: kFewGroup times the number of groups. For aligned calls only.
template <DenseType kType, int kChunks, int kThreads>
__device__ __forceinline__ void route_few(const RouteFewArgs& args) {
  const RouteCall& a = args.call;
  constexpr int kGroups = kThreads / kFewGroup;
  const int rank = rank_in_cluster();
  const int group = static_cast<int>(threadIdx.x) / kFewGroup, t = static_cast<int>(threadIdx.x) % kFewGroup;
  const int warp = t >> 5, lane = t & 31;
  const int n = a.norm.n;
  const long long first_row = static_cast<long long>(blockIdx.x / kFewCluster) * args.rows;
  const int rows = kChunks > 1 ? 1 : static_cast<int>(min(static_cast<long long>(args.rows), a.norm.rows - first_row));
  const int share = few_experts_of_cta(a.experts), first_expert = rank * share;
  const int experts = max(0, min(share, a.experts - first_expert));  // of this CTA
  unsigned char* const memory = dynamic_shared<unsigned char>();
  const ChoiceMemory choice = ChoiceMemory::at(memory, a.experts);
  auto* const all_here = reinterpret_cast<std::uint64_t*>(memory + choice_bytes(a.experts));
  // [rows][warps], then [rows][experts of the CTA][warps]
  float* const squares = reinterpret_cast<float*>(memory + choice_bytes(a.experts) + kFewBarrierBytes);
  float* const dots = squares + args.rows * kFewGroupWarps;
  if (rank < rows && threadIdx.x == 0) {
    barrier_init(all_here, 1);
    barrier_init_fence();
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
  const bool resident = kChunks == 1 && experts <= kGroups * kFewExperts;  // all weights are in registers, for all rows
  bool loaded = true;                                                      // those that come first are
  float v[kChunks][kChunk], scaled[kChunks][kChunk];  // x, and x * norm weight; before that the norm weight
  float norm_weight[kChunk];                          // of several rows, which have one chunk
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats<true>(a.norm.weight + column(c), n - column(c), scaled[c]);
#pragma unroll
  for (int j = 0; j < kChunk; ++j) norm_weight[j] = scaled[0][j];

  // Behind the other loads, because it waits for its own.
  if (rank < rows) load_bias(a, static_cast<int>(threadIdx.x), kThreads, choice);

  const unsigned number = route_number(a.announced);
  cluster_wait();  // all have started: their shared memory may be written
  wait_for_previous_kernel();
  let_next_kernel_start();

  const int written = kFewCluster - 1 - rank;  // the row that this CTA writes, if there is one: it comes last
#pragma unroll 1
  for (int i = 0; i < rows; ++i) {
    const int r = written < rows ? (written + 1 + i) % rows : i;
    const long long row = first_row + r;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      load_floats<true>(a.norm.x + row * a.norm.ldx + column(c), n - column(c), v[c]);
    }
    if (a.norm.add != nullptr) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        float other[kChunk];
        load_floats<true>(a.norm.add + row * a.norm.ldadd + column(c), n - column(c), other);
#pragma unroll
        for (int j = 0; j < kChunk; ++j) v[c][j] += other[j];
      }
    }
    float square = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        square = fmaf(v[c][j], v[c][j], square);
        scaled[c][j] = (kChunks == 1 ? norm_weight[j] : scaled[c][j]) * v[c][j];
      }
    }
    square = warp_sum(square);
    if (group == 0 && lane == 0) squares[r * kFewGroupWarps + warp] = square;
#pragma unroll 1
    for (int first = group * kFewExperts; first < experts; first += kGroups * kFewExperts) {
      float dot[kFewExperts] = {};
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        if (!loaded) load_weights(first, c, w);
        loaded = resident;
#pragma unroll
        for (int e = 0; e < kFewExperts; ++e) {
          float values[kChunk];
          w[e].unpack(values);
#pragma unroll
          for (int j = 0; j < kChunk; ++j) dot[e] = fmaf(values[j], scaled[c][j], dot[e]);
        }
      }
      const float sum = spread_sum(dot);
      const int expert = first + lane / (32 / kFewExperts);
      if (lane % (32 / kFewExperts) == 0 && expert < experts) {
        dots[(r * share + expert) * kFewGroupWarps + warp] = sum;
      }
    }
  }
  __syncthreads();
  // Some may have arrived: the phase cannot end before this.
  if (rank < rows && threadIdx.x == 0) barrier_expect(all_here, a.experts * static_cast<int>(sizeof(float)));
  const bool writes_x = a.norm.add != nullptr;
  if (writes_x) cluster_arrive();  // this CTA has used what it read of x

  const auto scale_of = [&](int r) {
    float square_sum = 0;
#pragma unroll
    for (int i = 0; i < kFewGroupWarps; ++i) square_sum += squares[r * kFewGroupWarps + i];
    return rms_factor(square_sum, n, a.norm.eps);
  };
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * experts; i += kThreads) {
    const int r = i / experts, expert = i - r * experts;
    float logit = 0;
#pragma unroll
    for (int k = 0; k < kFewGroupWarps; ++k) logit += dots[(r * share + expert) * kFewGroupWarps + k];
    logit *= scale_of(r);
    send_to_cluster(choice.logits + first_expert + expert, all_here, r, logit);
    if (a.logits != nullptr) a.logits[(first_row + r) * a.experts + first_expert + expert] = logit;
  }
  const bool writes = group == 0 && written < rows;
  const long long row = first_row + written;
  if (writes) {
    const float scale = scale_of(written);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int valid = n - column(c);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) scaled[c][j] = j < valid ? scaled[c][j] * scale : 0.0f;
      store_halves<true>(a.norm.out + row * a.norm.ldo + column(c), a.norm.padded - column(c), scaled[c]);
      if (a.norm.out_fp32 != nullptr) store_floats<true>(a.norm.out_fp32 + row * n + column(c), valid, scaled[c]);
    }
  }
  if (writes_x) {
    __syncwarp();
    cluster_wait();
    if (writes) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        store_floats<true>(a.norm.x + row * a.norm.ldx + column(c), n - column(c), v[c]);
      }
    }
  }
  if (rank < rows) {
    barrier_wait_cluster(all_here, 0);
    choose_experts<kThreads>(a, first_row + rank, static_cast<int>(threadIdx.x), choice, number);
  }
}

template <DenseType kType, int kChunks, int kThreads>
__global__ void __launch_bounds__(kThreads) route_few_kernel(const __grid_constant__ RouteFewArgs args) {
  if constexpr (kCodeHasClusters) {
    route_few<kType, kChunks, kThreads>(args);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
