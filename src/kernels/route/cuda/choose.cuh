// The choice of experts of one row from its logits by a team of threads: a warp, or a whole CTA.
//
// An expert's rank is the number of experts before it in the order of falling keys, ties to the lower expert: all ranks
// at once instead of one maximum after the other.
#pragma once

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/route/cuda/route_cuda.cuh"

namespace fairway::kernels::cuda {

// Shared memory of one choice.
struct ChoiceMemory {
  float* keys;     // [experts, padded to kKeyGroup]; until the choice a copy of the selection bias, if there is one
  double* scores;  // [experts]
  double* factor;  // of the scores of a softmax
  int* chosen;     // [kMaxTopK]
  float* logits;   // [experts], filled by the caller

  static constexpr int kKeyGroup = 4;  // that are read together
  static constexpr __host__ __device__ int padded_keys(int experts) {
    return (experts + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
  }

  // From memory aligned to 16 bytes.
  __device__ static ChoiceMemory at(unsigned char* memory, int experts) {
    ChoiceMemory m;
    m.keys = reinterpret_cast<float*>(memory);
    m.scores = reinterpret_cast<double*>(m.keys + padded_keys(experts));
    m.factor = m.scores + experts;
    m.chosen = reinterpret_cast<int*>(m.factor + 1);
    m.logits = reinterpret_cast<float*>(m.chosen + kMaxTopK);
    return m;
  }
};

__host__ __device__ inline int choice_bytes(int experts) {
  constexpr int kOfExpert = sizeof(double) + 2 * sizeof(float);
  constexpr int kFixed = (ChoiceMemory::kKeyGroup - 1) * sizeof(float) + sizeof(double) + kMaxTopK * sizeof(int);
  return (experts * kOfExpert + kFixed + 15) / 16 * 16;
}

// Until the choice m.keys has the selection bias: here, because it is far away.
__device__ __forceinline__ void load_bias(const RouteCall& a, int thread, int threads, const ChoiceMemory& m) {
  if (a.selection_bias == nullptr) return;
  for (int e = thread; e < a.experts; e += threads) m.keys[e] = a.selection_bias[e];
}

__device__ __forceinline__ bool is_nan(double v) {
  return v != v;
}

// e^v for v <= 0 to within 2^-51 of itself, in a few dozen instructions without branches. NaN stays.
__device__ __forceinline__ double power_of_e(double v) {
  constexpr double kFar = -104.0;  // e^kFar is zero as a float
  constexpr double kToInteger = 0x1.8p52, kLog2E = 0x1.71547652b82fep+0, kLn2 = 0x1.62e42fefa39efp-1;
  // Minimax of e^r, |r| <= ln(2) / 2, relative error 2^-52: by the Remez algorithm.
  constexpr double kC[11] = {0x1.0000000000000p+0,  0x1.000000000001dp+0,  0x1.ffffffffffe17p-2,  0x1.555555554bbeap-3,
                             0x1.5555555593488p-5,  0x1.1111112d4dc0ep-7,  0x1.6c16c0c09358bp-10, 0x1.a0197a40e29acp-13,
                             0x1.a01b6d068fbd3p-16, 0x1.72f993a8699bap-19, 0x1.2727a0b116cfap-22};
  const double near = v < kFar ? kFar : v;
  const double shifted = fma(near, kLog2E, kToInteger), r = fma(shifted - kToInteger, -kLn2, near);
  const double r2 = r * r, r4 = r2 * r2;
  const double low = fma(fma(kC[3], r, kC[2]), r2, fma(kC[1], r, kC[0]));
  const double middle = fma(fma(kC[7], r, kC[6]), r2, fma(kC[5], r, kC[4]));
  const double high = fma(kC[10], r2, fma(kC[9], r, kC[8]));
  return fma(fma(high, r4, middle), r4, low) * __hiloint2double((__double2loint(shifted) + 1023) << 20, 0);
}

// 1 / (1 + e^-x), so exact that as a float it is what route.cc has: with e^-|x| it needs no more than a reciprocal of 1
// to 2.
__device__ __forceinline__ double logistic(float x) {
  const double power = power_of_e(-fabsf(x));
  const double divisor = 1.0 + power, about = reciprocal_about(divisor), error = fma(-divisor, about, 1.0);
  const double inverse = fma(fma(error, error, error), about, about);
  return x < 0 ? power * inverse : inverse;
}

// As route.cc: unnormalised weight of one expert.
__device__ __forceinline__ double expert_score(float logit, RouteKind kind, double max_logit) {
  return kind == RouteKind::kSoftmaxTopK ? exp(static_cast<double>(logit) - max_logit) : logistic(logit);
}

// The number of the launch's routes, if they are announced. May be read before the wait for the previous kernel: those
// who count it up ended before that one began.
__device__ __forceinline__ unsigned route_number(const AnnouncedRoutes& announced) {
  return announced.turn != nullptr ? __ldcg(announced.turn) + 1 : 0;
}

// thread: 0..kTeam-1, kTeam = 32 or the whole CTA. number: route_number(). m.logits and load_bias() must be visible to
// all of the team.
template <int kTeam>
__device__ inline void choose_experts(const RouteCall& a, long long row, int thread, const ChoiceMemory& m,
                                      unsigned number) {
  const auto sync = [] {
    if constexpr (kTeam == 32) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  };
  const float kInfinity = __uint_as_float(0x7F800000u);
  const int lane = thread & 31, experts = a.experts;
  const bool softmax = a.kind == RouteKind::kSoftmaxTopK;
  double max_logit = 0;
  if (softmax) {
    float best = -kInfinity;
    for (int e = lane; e < experts; e += 32) best = fmaxf(best, m.logits[e]);
    best = warp_max(best);
    max_logit = fabsf(best) < kInfinity ? best : 0.0f;
  }
  for (int e = thread; e < experts; e += kTeam) {
    const float logit = m.logits[e];
    const double score = expert_score(logit, a.kind, max_logit);
    // Softmax keeps the order of the logits, and comparing those avoids ties made by rounding.
    float key = softmax ? logit : static_cast<float>(score);
    if (a.selection_bias != nullptr) key = static_cast<float>(score) + m.keys[e];
    m.scores[e] = score;
    m.keys[e] = key == key ? key : -kInfinity;
  }
  if (thread < ChoiceMemory::kKeyGroup - 1 && experts + thread < ChoiceMemory::padded_keys(experts)) {
    m.keys[experts + thread] = -kInfinity;  // before nobody, and after its equals
  }
  sync();

  // By one warp.
  if (softmax && thread >= kTeam - 32) {
    double total = 0;
    for (int e = lane; e < experts; e += 32) total += is_nan(m.scores[e]) ? 0.0 : m.scores[e];
    total = warp_sum(total);
    if (lane == 0) *m.factor = 1.0 / total;
  }
  // Little unrolled: the code runs once, and waits for its instructions.
  int shift = 0;  // 2^shift threads count for one expert, neighbours in a warp
  while (shift < 5 && 2 * experts <= kTeam >> shift) ++shift;
  const int parts = 1 << shift, part = thread & (parts - 1);
  for (int first = 0; first < experts; first += kTeam >> shift) {
    const int e = first + (thread >> shift);
    const float key = e < experts ? m.keys[e] : 0.0f;
    int ranks[4] = {};
#pragma unroll 2
    for (int j = 4 * part; j < experts; j += 4 * parts) {
      const float4 others = *reinterpret_cast<const float4*>(m.keys + j);
      ranks[0] += others.x > key || (others.x == key && j < e);
      ranks[1] += others.y > key || (others.y == key && j + 1 < e);
      ranks[2] += others.z > key || (others.z == key && j + 2 < e);
      ranks[3] += others.w > key || (others.w == key && j + 3 < e);
    }
    int rank = ranks[0] + ranks[1] + ranks[2] + ranks[3];
    for (int distance = 1; distance < parts; distance *= 2) rank += __shfl_xor_sync(kAllLanes, rank, distance);
    if (part == 0 && e < experts && rank < a.top_k) m.chosen[rank] = e;
  }
  sync();

  if (thread >= 32) return;
  const int id = lane < a.top_k ? m.chosen[lane] : 0;
  float weight = static_cast<float>(softmax ? m.scores[id] * *m.factor : m.scores[id]);
  if (is_nan(weight)) weight = 0.0f;
  float chosen_sum = softmax ? 0.0f : 1e-20f;  // as route.cc
  for (int k = 0; k < a.top_k; ++k) chosen_sum += __shfl_sync(kAllLanes, weight, k);
  if (a.normalize && chosen_sum > 0) weight /= chosen_sum;
  weight *= a.scaling_factor;
  if (lane < a.top_k) {
    if (a.announced.units != nullptr) {
      store_numbered(a.announced.units + row * a.top_k + lane, __int_as_float(id), weight, number);
    }
    a.ids[row * a.top_k + lane] = id;
    a.weights[row * a.top_k + lane] = weight;
  }
}

}  // namespace fairway::kernels::cuda
