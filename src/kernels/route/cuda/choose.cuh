// The choice of experts of one row from its logits by a team of threads: a warp, or a whole CTA.
//
// An expert's rank is the number of experts before it in the order of falling keys, ties to the lower expert: all ranks
// at once instead of one maximum after the other.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/route/cuda/route_cuda.cuh"

namespace fairway::kernels::cuda {

// Shared memory of one choice.
struct ChoiceMemory {
  double* scores;  // [experts]
  float* logits;   // [experts], filled by the caller
  float* keys;     // [experts]; until the choice a copy of the selection bias, if there is one
  int* chosen;     // [kMaxTopK]

  static constexpr int kBytesPerExpert = sizeof(double) + 2 * sizeof(float);
  static constexpr int kFixedBytes = kMaxTopK * sizeof(int) + sizeof(double);

  // From memory aligned to 8 bytes.
  __device__ static ChoiceMemory at(unsigned char* memory, int experts) {
    ChoiceMemory m;
    m.scores = reinterpret_cast<double*>(memory);
    m.chosen = reinterpret_cast<int*>(m.scores + experts);
    m.logits = reinterpret_cast<float*>(m.chosen + kMaxTopK + 2);  // behind a double, see choose_experts()
    m.keys = m.logits + experts;
    return m;
  }
};

__host__ __device__ inline int choice_bytes(int experts) {
  return (experts * ChoiceMemory::kBytesPerExpert + ChoiceMemory::kFixedBytes + 15) / 16 * 16;
}

// Until the choice m.keys has the selection bias: here, because it is far away.
__device__ __forceinline__ void load_bias(const RouteCall& a, int thread, int threads, const ChoiceMemory& m) {
  if (a.selection_bias == nullptr) return;
  for (int e = thread; e < a.experts; e += threads) m.keys[e] = a.selection_bias[e];
}

__device__ __forceinline__ bool is_nan(double v) {
  return v != v;
}

// As route.cc: unnormalised weight of one expert.
__device__ __forceinline__ double expert_score(float logit, RouteKind kind, double max_logit) {
  const bool softmax = kind == RouteKind::kSoftmaxTopK;
  const double e = exp(softmax ? static_cast<double>(logit) - max_logit : -static_cast<double>(logit));
  return softmax ? e : 1.0 / (1.0 + e);
}

// thread: 0..kTeam-1, kTeam = 32 or the whole CTA. m.logits and load_bias() must be visible to all of the team.
template <int kTeam>
__device__ inline void choose_experts(const RouteCall& a, long long row, int thread, const ChoiceMemory& m) {
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
  sync();

  // By a warp that does not count, if there is one.
  double* const factor = reinterpret_cast<double*>(m.chosen + kMaxTopK);
  if (softmax && thread >= kTeam - 32) {
    double total = 0;
    for (int e = lane; e < experts; e += 32) total += is_nan(m.scores[e]) ? 0.0 : m.scores[e];
    total = warp_sum(total);
    if (lane == 0) *factor = 1.0 / total;
  }
  const int counting = softmax && kTeam > 32 ? kTeam - 32 : kTeam;
  int parts = 1;  // threads that count for one expert, neighbours in a warp
  while (parts < 32 && 2 * parts * experts <= counting) parts *= 2;
  const int part = thread & (parts - 1);
  for (int first = 0; first < experts && thread < counting; first += counting / parts) {
    const int e = first + thread / parts;
    const float key = e < experts ? m.keys[e] : 0.0f;
    int rank = 0;
#pragma unroll 4
    for (int j = part; j < experts; j += parts) {
      const float other = m.keys[j];
      rank += other > key || (other == key && j < e);
    }
    for (int distance = 1; distance < parts; distance *= 2) rank += __shfl_xor_sync(kAllLanes, rank, distance);
    if (part == 0 && e < experts && rank < a.top_k) m.chosen[rank] = e;
  }
  sync();

  if (thread >= 32) return;
  const int id = lane < a.top_k ? m.chosen[lane] : 0;
  float weight = static_cast<float>(softmax ? m.scores[id] * *factor : m.scores[id]);
  if (is_nan(weight)) weight = 0.0f;
  float chosen_sum = softmax ? 0.0f : 1e-20f;  // as route.cc
  for (int k = 0; k < a.top_k; ++k) chosen_sum += __shfl_sync(kAllLanes, weight, k);
  if (a.normalize && chosen_sum > 0) weight /= chosen_sum;
  weight *= a.scaling_factor;
  if (lane < a.top_k) {
    a.ids[row * a.top_k + lane] = id;
    a.weights[row * a.top_k + lane] = weight;
  }
}

}  // namespace fairway::kernels::cuda
