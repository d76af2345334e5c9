// norm_and_route for one row of a decode step, whose code comes cold in every layer: as route_few.cuh, with nothing
// that one row does not need, and a choice by one warp.
//
// Every CTA of a cluster reads the whole row, in each group of threads a chunk a thread for kRouteOneExperts experts.
// The first warp of each CTA ends the sums and sends keys, in whose order experts are chosen, to the first CTA, and
// what weights are made of. The last CTA writes the row.
//
// The choice takes the largest key of all lanes, top_k times: for a few of up to 128 that is shorter than all ranks,
// and the other warps are gone. More CTAs would have less to do each, but the expert layer's start late where they are:
// with 16 of 256 threads Qwen3-30B-A3B took a percent longer.
#pragma once

#include <cstdint>

#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/cluster.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/route/cuda/choose.cuh"

namespace fairway::kernels::cuda {

constexpr int kRouteOneCluster = 8;
constexpr int kRouteOneGroup = 256, kRouteOneWarps = kRouteOneGroup / 32;  // threads that share a row
constexpr int kRouteOneColumns = kRouteOneGroup * kChunk;                  // most of a row
constexpr int kRouteOneExperts = 8;                                        // of a group

template <int kGroups>
struct alignas(16) RouteOneMemory {
  static constexpr int kExperts = kGroups * kRouteOneExperts, kAll = kRouteOneCluster * kExperts;
  std::uint64_t all_here, unused;
  float keys[kAll];                      // of the first CTA
  float scores[kAll];                    // of a sigmoid
  float dots[kExperts][kRouteOneWarps];  // of the CTA's experts
  float squares[kRouteOneWarps];
  int chosen[kMaxTopK];
};

// Floats as integers of the same order; both zeros are one.
__device__ __forceinline__ int ordered(float v) {
  const int bits = __float_as_int(v + 0.0f);
  return bits ^ (bits >> 31 & 0x7FFFFFFF);
}

// By a warp: experts of the top_k largest keys, in that order, each also to `announce` as soon as it is known. Lane l
// has those of experts kKeys * l and the next ones.
template <int kKeys, class Announce>
__device__ __forceinline__ void choose_largest(const float* keys, int top_k, int* chosen, Announce announce) {
  constexpr int kTaken = static_cast<int>(0x80000000u);  // below all keys
  const int lane = threadIdx.x & 31;
  int key[kKeys], id[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) key[j] = ordered(keys[kKeys * lane + j]), id[j] = kKeys * lane + j;
    // The lane's own, in falling order. Only neighbours change places, so equal ones keep theirs.
#pragma unroll
  for (int last = kKeys - 1; last > 0; --last) {
#pragma unroll
    for (int j = 0; j < last; ++j) {
      const bool falls = key[j] >= key[j + 1];
      const int larger = max(key[j], key[j + 1]), first = falls ? id[j] : id[j + 1];
      key[j + 1] = min(key[j], key[j + 1]), id[j + 1] = falls ? id[j + 1] : id[j];
      key[j] = larger, id[j] = first;
    }
  }
  const unsigned lower = (1u << lane) - 1;
#pragma unroll 1
  for (int k = 0; k < top_k; ++k) {
    const int largest = __reduce_max_sync(kAllLanes, key[0]);
    const bool equal = key[0] == largest;
    const unsigned lanes = __ballot_sync(kAllLanes, equal);
    const bool own = equal && (lanes & lower) == 0;
    if (own) {
      announce(k, id[0]);
      chosen[k] = id[0];
    }
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      key[j] = !own ? key[j] : j + 1 < kKeys ? key[j + 1] : kTaken;
      if (j + 1 < kKeys) id[j] = own ? id[j + 1] : id[j];
    }
  }
  __syncwarp();
}

// By a warp: the weights of what it has chosen. value: the lane's logit, of a softmax, or score.
template <RouteKind kKind>
__device__ __forceinline__ float chosen_weight(const RouteCall& a, float value) {
  const int lane = threadIdx.x & 31;
  float weight = value;
  if constexpr (kKind == RouteKind::kSoftmaxTopK) {
    const float most = __shfl_sync(kAllLanes, value, 0);
    weight = static_cast<float>(power_of_e(static_cast<double>(value) - most));
    if (!(fabsf(most) < __uint_as_float(0x7F800000u))) weight = 0;  // as route.cc: all of them
  }
  if (lane >= a.top_k || weight != weight) weight = 0;
  if (a.normalize) {
    const float sum = warp_sum(weight) + (kKind == RouteKind::kSoftmaxTopK ? 0.0f : 1e-20f);
    const float inverse = __fdividef(1.0f, sum), about = weight * inverse;
    weight = sum > 0 ? fmaf(fmaf(-about, sum, weight), inverse, about) : 0.0f;
  }
  return weight * a.scaling_factor;
}

// A softmax: normalised, and without a bias. For aligned calls of one row, of up to RouteOneMemory::kAll experts,
// without `add`.
template <DenseType kType, RouteKind kKind, int kGroups>
__device__ __forceinline__ void route_one(const RouteCall& a) {
  using Memory = RouteOneMemory<kGroups>;
  constexpr bool kSoftmax = kKind == RouteKind::kSoftmaxTopK;
  constexpr int kExperts = kRouteOneExperts;
  constexpr int kLanes = 32 / Memory::kExperts;  // of an expert, at the end
  auto& m = *dynamic_shared<Memory>();
  const int rank = rank_in_cluster(), thread = static_cast<int>(threadIdx.x), warp = thread >> 5, lane = thread & 31;
  const int n = a.norm.n, column = kChunk * (thread % kRouteOneGroup), group = thread / kRouteOneGroup;
  const int first_expert = rank * Memory::kExperts;
  const float kInfinity = __uint_as_float(0x7F800000u);
  if (rank == 0 && thread == 0) {
    barrier_init(&m.all_here, 1);
    barrier_init_fence();
  }
  __syncwarp();
  cluster_arrive();
  DenseChunk<kType, true> w[kExperts];
  float norm_weight[kChunk];
  load_floats<true>(a.norm.weight + column, n - column, norm_weight);
#pragma unroll
  for (int e = 0; e < kExperts; ++e) {
    const int expert = min(first_expert + group * kExperts + e, a.experts - 1);
    w[e].load(a.weight, static_cast<long long>(expert * n + column), n - column);
  }
  const int expert = first_expert + lane / kLanes;  // of this lane, in the first warp
  const bool exists = expert < a.experts;
  float bias = 0;
  if (!kSoftmax && warp == 0 && exists && a.selection_bias != nullptr) bias = a.selection_bias[expert];
  const unsigned number = route_number(a.announced);
  constexpr int kLine = 128;
  const int line = kLine * (rank * static_cast<int>(blockDim.x) + thread);
  if (line < a.read_next_bytes) prefetch_line(static_cast<const unsigned char*>(a.read_next) + line);
  cluster_wait();  // the first CTA has started, and its barrier is initialised
  if (a.announced.row != nullptr) let_next_kernel_start();
  wait_for_previous_kernel();
  if (a.announced.row == nullptr) let_next_kernel_start();
  if (a.announced.row != nullptr && rank == 0 && thread == 0) store_release(a.announced.row, number);

  float v[kChunk], dot[kExperts] = {}, square = 0;
  load_floats<true>(a.norm.x + column, n - column, v);
#pragma unroll
  for (int j = 0; j < kChunk; ++j) {
    square = fmaf(v[j], v[j], square);
    v[j] *= norm_weight[j];
  }
#pragma unroll
  for (int e = 0; e < kExperts; ++e) {
    float weights[kChunk];
    w[e].unpack(weights);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) dot[e] = fmaf(weights[j], v[j], dot[e]);
  }
  const float own = spread_sum(dot);
  square = warp_sum(square);
  constexpr int kSame = 32 / kExperts;  // lanes with the same sum
  if (lane % kSame == 0) m.dots[group * kExperts + lane / kSame][warp % kRouteOneWarps] = own;
  if (lane == 0 && group == 0) m.squares[warp] = square;
  __syncthreads();

  const bool writes = rank == kRouteOneCluster - 1 && group == 0;
  if (warp > 0 && !writes) return;
  float squares = m.squares[lane % kRouteOneWarps];
#pragma unroll
  for (int d = kRouteOneWarps / 2; d > 0; d /= 2) squares += __shfl_xor_sync(kAllLanes, squares, d);
  const float scale = rms_factor(squares, n, a.norm.eps);
  if (warp == 0) {
    // Some may have arrived: the phase cannot end before this.
    if (rank == 0 && lane == 0) barrier_expect(&m.all_here, Memory::kAll * (kSoftmax ? 4 : 8));
    float logit = 0;
#pragma unroll
    for (int i = 0; i < kRouteOneWarps / kLanes; ++i) {
      logit += m.dots[lane / kLanes][lane % kLanes * (kRouteOneWarps / kLanes) + i];
    }
#pragma unroll
    for (int d = kLanes / 2; d > 0; d /= 2) logit += __shfl_xor_sync(kAllLanes, logit, d);
    logit *= scale;
    float key = logit, score = 0;
    if constexpr (!kSoftmax) {
      score = static_cast<float>(logistic(logit));
      key = score + bias;
    }
    if (!exists || key != key) key = -kInfinity;
    const int part = lane % kLanes;
    if (part < (kSoftmax ? 1 : 2)) {
      send_to_cluster((part == 0 ? m.keys : m.scores) + expert, &m.all_here, 0, part == 0 ? key : score);
    }
    if (a.logits != nullptr && part == 0 && exists) a.logits[expert] = logit;
  }
  if (writes) {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) v[j] *= scale;
    store_halves<true>(a.norm.out + column, a.norm.padded - column, v);
    if (a.norm.out_fp32 != nullptr) store_floats<true>(a.norm.out_fp32 + column, n - column, v);
  }
  if (rank > 0 || warp > 0) return;
  barrier_wait_cluster(&m.all_here, 0);
  // The experts at once: their weights can be asked for before it is known what they count.
  choose_largest<Memory::kAll / 32>(m.keys, a.top_k, m.chosen, [&](int k, int id) {
    if (a.announced.units != nullptr) {
      store_numbered_word(a.announced.units + k, 0, static_cast<unsigned>(id), number);
    }
  });
  const int id = lane < a.top_k ? m.chosen[lane] : 0;
  const float weight = chosen_weight<kKind>(a, (kSoftmax ? m.keys : m.scores)[id]);
  if (lane >= a.top_k) return;
  if (a.announced.units != nullptr) store_numbered_word(a.announced.units + lane, 1, __float_as_uint(weight), number);
  a.ids[lane] = id;
  a.weights[lane] = weight;
}

// Registers: so that a CTA of the expert layer has room beside one of 64 experts.
template <DenseType kType, RouteKind kKind, int kGroups>
__global__ void __launch_bounds__(kGroups* kRouteOneGroup, (kType == DenseType::kF32 ? 2 : 4) / kGroups)
    route_one_kernel(const __grid_constant__ RouteCall call) {
  if constexpr (kCodeHasClusters) {
    route_one<kType, kKind, kGroups>(call);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
