// greedy and logprob: a cluster of eight CTAs a row; without clusters, one CTA.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/cluster.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/sample/cuda/cluster_exchange.cuh"
#include "kernels/sample/cuda/ordered.cuh"
#include "kernels/sample/cuda/sample_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kThreads = 1024;  // fewer if they are enough for a quad each
constexpr int kQuad = 4;
constexpr int kBatch = 5;  // quads of a thread that are under way together: 163840 logits of a row

// Calls f(index, logit) for this thread's part of a row of n logits, in rising order.
template <bool kAligned, int kRanks, class F>
__device__ __forceinline__ void for_logits(const float* row, int n, int rank, const F& f) {
  constexpr int kStep = kRanks * kThreads * kQuad;
  for (int first = static_cast<int>(static_cast<unsigned>(rank) * blockDim.x + threadIdx.x) * kQuad; first < n;
       first += kBatch * kStep) {
    float v[kBatch][kQuad];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int at = first + b * kStep;
      if (kAligned && at + kQuad <= n) {
        const float4 quad = *reinterpret_cast<const float4*>(row + at);
        v[b][0] = quad.x, v[b][1] = quad.y, v[b][2] = quad.z, v[b][3] = quad.w;
      } else {
#pragma unroll
        for (int i = 0; i < kQuad; ++i) v[b][i] = at + i < n ? row[at + i] : 0.0f;
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const int at = first + b * kStep + i;
        if (at < n) f(at, v[b][i]);
      }
    }
  }
}

// The largest logit of a row, for all threads of the cluster.
template <bool kAligned, int kRanks>
__device__ __forceinline__ LogitPlace largest(const float* row, int n, int rank, ClusterExchange<kRanks>& exchange) {
  unsigned key = 0;
  int place = 0;
  for_logits<kAligned, kRanks>(row, n, rank, [&](int id, float v) {  // rising ids: of equal logits the first stays
    const unsigned k = ordered(v);
    if (k > key) key = k, place = id;
  });
  return logit_place_of(exchange.max(key != 0 ? logit_place(key, place) : 0.0));
}

template <bool kAligned, int kRanks>
__global__ void __launch_bounds__(kThreads) greedy_kernel(const __grid_constant__ GreedyCall a) {
  const int rank = cluster_rank(kRanks);
  const int r = static_cast<int>(blockIdx.x) / kRanks;
  ClusterExchange<kRanks> exchange(*dynamic_shared<ExchangeMemory>(), rank);
  exchange.wait_for_others();
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int id = largest<kAligned, kRanks>(a.logits + r * a.ld, a.vocab, rank, exchange).id;
  if (rank == 0 && threadIdx.x == 0) store_choice(id, r, a.ids, a.position, a.history, a.history_stride);
}

template <bool kAligned, int kRanks>
__global__ void __launch_bounds__(kThreads) logprob_kernel(const __grid_constant__ LogprobCall a) {
  const int rank = cluster_rank(kRanks);
  const int r = static_cast<int>(blockIdx.x) / kRanks;
  ClusterExchange<kRanks> exchange(*dynamic_shared<ExchangeMemory>(), rank);
  exchange.wait_for_others();
  wait_for_previous_kernel();
  let_next_kernel_start();
  const float* const row = a.logits + r * a.ld;
  const float top = from_ordered(largest<kAligned, kRanks>(row, a.vocab, rank, exchange).key);
  double sum = 0;
  for_logits<kAligned, kRanks>(row, a.vocab, rank, [&](int, float v) { sum += static_cast<double>(expf(v - top)); });
  sum = exchange.sum(sum);
  if (rank != 0 || threadIdx.x != 0) return;
  const int target = a.targets[r];
  const bool known = target >= 0 && target < a.vocab;
  a.logprobs[r] = known ? static_cast<float>(static_cast<double>(row[target]) - top - log(sum))
                        : __uint_as_float(0x7FC00000u);  // NaN
}

void check(const std::string& name, int rows, int vocab, long long ld) {
  constexpr int kMostRows = 1 << 24;
  if (rows >= 1 && rows <= kMostRows && vocab >= 1 && vocab <= kMostLogits && ld >= vocab) return;
  throw Error(ErrorKind::kUsage, name + ": " + std::to_string(rows) + " rows of " + std::to_string(vocab) +
                                     " logits, row stride " + std::to_string(ld) + "; expected sizes from 1, at most " +
                                     std::to_string(kMostLogits) + " logits and a stride of at least a row");
}

template <class Call>
bool aligned(const Call& call) {
  return call.ld % kQuad == 0 && is_aligned(call.logits);
}

// Fewer threads than kThreads come to the end of a row with their first quad.
LaunchShape shape_of(int rows, int vocab, int ranks) {
  const int warp_logits = ranks * 32 * kQuad;  // of one warp of every CTA
  const int threads = std::min(kThreads, (vocab + warp_logits - 1) / warp_logits * 32);
  return {static_cast<unsigned>(rows * ranks), threads, static_cast<int>(sizeof(ExchangeMemory)), ranks};
}

template <int kRanks>
cudaError_t launch_greedy(const GreedyCall& call, cudaStream_t stream) {
  return launch(aligned(call) ? greedy_kernel<true, kRanks> : greedy_kernel<false, kRanks>,
                shape_of(call.rows, call.vocab, kRanks), stream, call);
}
template <int kRanks>
cudaError_t launch_logprob(const LogprobCall& call, cudaStream_t stream) {
  return launch(aligned(call) ? logprob_kernel<true, kRanks> : logprob_kernel<false, kRanks>,
                shape_of(call.rows, call.vocab, kRanks), stream, call);
}

}  // namespace

void greedy(const GreedyCall& call, cudaStream_t stream) {
  check("greedy", call.rows, call.vocab, call.ld);
  if (call.history != nullptr && (call.position == nullptr || call.history_stride < 1)) {
    throw Error(ErrorKind::kUsage,
                "greedy: a history needs positions and a stride, which is " + std::to_string(call.history_stride));
  }
  backend::check_cuda(
      gpu_features().clusters ? launch_greedy<kExchangeRanks>(call, stream) : launch_greedy<1>(call, stream), "greedy");
}

void logprob(const LogprobCall& call, cudaStream_t stream) {
  check("logprob", call.rows, call.vocab, call.ld);
  backend::check_cuda(
      gpu_features().clusters ? launch_logprob<kExchangeRanks>(call, stream) : launch_logprob<1>(call, stream),
      "logprob");
}

}  // namespace fairway::kernels::cuda
