// rms_norm: one CTA a row, which stays in registers between the sum and the scaling.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/common/cuda/reduce.cuh"
#include "kernels/rms_norm/cuda/rms_norm_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kFewThreads = 256, kManyThreads = 512;
constexpr int kMaxColumns = kManyThreads * 4 * kChunk;

// A thread has chunks t, t + threads, ...: kChunks of them.
template <int kChunks, bool kAligned>
__global__ void __launch_bounds__(kManyThreads) rms_norm_kernel(const __grid_constant__ NormCall a) {
  const auto column = [](int c) { return kChunk * (c * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)); };
  const long long row = blockIdx.x;
  float weight[kChunks][kChunk], v[kChunks][kChunk];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats<kAligned>(a.weight + column(c), a.n - column(c), weight[c]);
  wait_for_previous_kernel();
  let_next_kernel_start();
#pragma unroll
  for (int c = 0; c < kChunks; ++c) load_floats<kAligned>(a.x + row * a.ldx + column(c), a.n - column(c), v[c]);
  if (a.add != nullptr) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      float other[kChunk];
      load_floats<kAligned>(a.add + row * a.ldadd + column(c), a.n - column(c), other);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[c][i] += other[i];
    }
  }
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) sum = fmaf(v[c][i], v[c][i], sum);
  }
  const float mean = block_sum(sum, dynamic_shared<float>()) / static_cast<float>(a.n);
  const float scale = 1.0f / sqrtf(mean + a.eps);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int valid = a.n - column(c);
    if (a.add != nullptr && !a.keeps_x) store_floats<kAligned>(a.x + row * a.ldx + column(c), valid, v[c]);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[c][i] = v[c][i] * scale * weight[c][i];
    if (!kAligned || valid <= 0) {  // 0 * scale is NaN where the scale is
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[c][i] = i < valid ? v[c][i] : 0.0f;
    }
    store_halves<kAligned>(a.out + row * a.ldo + column(c), a.padded - column(c), v[c]);
    if (a.out_fp32 != nullptr) store_floats<kAligned>(a.out_fp32 + row * a.n + column(c), valid, v[c]);
  }
}

template <int kChunks>
cudaError_t run(const NormCall& call, const LaunchShape& shape, cudaStream_t stream) {
  return launch(norm_is_aligned(call) ? rms_norm_kernel<kChunks, true> : rms_norm_kernel<kChunks, false>, shape, stream,
                call);
}

}  // namespace

void check_norm(const NormCall& call, std::string_view who) {
  const std::string what = std::string(who) + ": " + std::to_string(call.rows) + " rows of " + std::to_string(call.n) +
                           " values padded to " + std::to_string(call.padded) + ", strides " +
                           std::to_string(call.ldx) + " and " + std::to_string(call.ldo);
  if (call.rows < 1 || call.n < 1 || call.padded < call.n || call.ldx < call.n || call.ldo < call.padded ||
      (call.add != nullptr && call.ldadd < call.n)) {
    throw Error(ErrorKind::kUsage, what + "; expected sizes from 1 and strides of at least a row");
  }
  if (call.padded > kMaxColumns) {
    throw Error(ErrorKind::kUnsupported, what + "; a row may have " + std::to_string(kMaxColumns));
  }
}

bool norm_is_aligned(const NormCall& call) {
  return call.n % kChunk == 0 && call.padded % kChunk == 0 && call.ldx % 4 == 0 && call.ldo % kChunk == 0 &&
         (call.add == nullptr || call.ldadd % 4 == 0) && is_aligned(call.x) && is_aligned(call.add) &&
         is_aligned(call.weight) && is_aligned(call.out) && is_aligned(call.out_fp32);
}

void rms_norm(const NormCall& call, cudaStream_t stream) {
  check_norm(call, "rms_norm");
  const int chunks = (call.padded + kChunk - 1) / kChunk;
  const int most = chunks <= 4 * kFewThreads ? kFewThreads : kManyThreads;
  const int threads = std::min(most, (chunks + 31) / 32 * 32);
  const LaunchShape shape{static_cast<unsigned>(call.rows), threads, threads / 32 * static_cast<int>(sizeof(float))};
  const int of_thread = (chunks + threads - 1) / threads;
  backend::check_cuda(of_thread == 1   ? run<1>(call, shape, stream)
                      : of_thread == 2 ? run<2>(call, shape, stream)
                                       : run<4>(call, shape, stream),
                      "rms_norm");
}

}  // namespace fairway::kernels::cuda
