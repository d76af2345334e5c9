// dense_linear: which kernel serves a call.
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/dense_linear/cuda/dense_linear_cuda.cuh"
#include "kernels/dense_linear/cuda/rows_few.cuh"
#include "kernels/dense_linear/cuda/rows_many.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kMostFewRows = 8;
constexpr int kFewestTensorRows = 4;  // above which fused multiply-adds would take longer than reading W
constexpr int kNarrowRows = 32;       // up to which warps of the tensor path stand side by side along the outputs

unsigned blocks(int count, int of) {
  return static_cast<unsigned>((count + of - 1) / of);
}

template <DenseType kType, bool kAligned, int kRows>
cudaError_t run_few(const DenseLinearCall& call, cudaStream_t stream) {
  const dim3 grid(blocks(call.out, kFewWarps * kFewOutputs<kRows>), blocks(call.rows, kRows));
  return launch(dense_few_kernel<kType, kAligned, kRows>, {grid, 32 * kFewWarps}, stream, call);
}

template <DenseType kType, int kOutTiles, int kRowTiles, int kWarpsOut>
cudaError_t run_many(const DenseLinearCall& call, cudaStream_t stream) {
  const dim3 grid(blocks(call.out, 16 * kOutTiles * kWarpsOut),
                  blocks(call.rows, 8 * kRowTiles * (kManyWarps / kWarpsOut)));
  return launch(dense_many_kernel<kType, kOutTiles, kRowTiles, kWarpsOut>, {grid, 32 * kManyWarps}, stream, call);
}

template <DenseType kType>
cudaError_t run(const DenseLinearCall& call, cudaStream_t stream) {
  const bool aligned = call.in % kChunk == 0 && call.ldx % kChunk == 0 && is_aligned(call.weight) && is_aligned(call.x);
  if (!aligned) return run_few<kType, false, kMostFewRows>(call, stream);
  if constexpr (kType != DenseType::kF32) {
    if (call.rows > kNarrowRows) return run_many<kType, 2, 4, 2>(call, stream);
    if (call.rows > kMostFewRows) return run_many<kType, 1, 4, 4>(call, stream);
    if (call.rows > kFewestTensorRows) return run_many<kType, 1, 1, 4>(call, stream);
  }
  if (call.rows == 1) return run_few<kType, true, 1>(call, stream);
  if (call.rows == 2) return run_few<kType, true, 2>(call, stream);
  if (call.rows <= 4) return run_few<kType, true, 4>(call, stream);
  return run_few<kType, true, kMostFewRows>(call, stream);
}

}  // namespace

void dense_linear(const DenseLinearCall& call, cudaStream_t stream) {
  constexpr int kMostRows = 65535 * kMostFewRows;
  if (call.in < 1 || call.out < 1 || call.rows < 1 || call.rows > kMostRows || call.ldx < call.in ||
      call.ldy < call.out) {
    throw Error(ErrorKind::kUsage, "dense_linear: " + std::to_string(call.rows) + " rows, [" +
                                       std::to_string(call.out) + ", " + std::to_string(call.in) + "], row strides " +
                                       std::to_string(call.ldx) + " (x) and " + std::to_string(call.ldy) +
                                       " (y); expected 1 to " + std::to_string(kMostRows) +
                                       " rows, sizes from 1 and strides of at least a row");
  }
  backend::check_cuda(with_dense_type(call.type, [&](auto type) { return run<type.value>(call, stream); }),
                      "dense_linear");
}

}  // namespace fairway::kernels::cuda
