// embed: one CTA a row, chunks of eight elements.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/chunk.cuh"
#include "kernels/common/cuda/embed.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <DenseType kType, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    embed_kernel(const __grid_constant__ EmbeddingTable table, const int* ids, float* x, long long ldx) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int id = ids[blockIdx.x];
  const bool known = id >= 0 && id < table.vocab;
  float* const row = x + blockIdx.x * ldx;
  for (int col = kChunk * static_cast<int>(threadIdx.x); col < table.hidden;
       col += kChunk * static_cast<int>(blockDim.x)) {
    const int valid = table.hidden - col;
    float v[kChunk];
    if (known) {
      DenseChunk<kType, kAligned> chunk;
      chunk.load(table.data, static_cast<long long>(id) * table.hidden + col, valid);
      chunk.unpack(v);
    } else {
      for (float& value : v) value = __uint_as_float(0x7FC00000u);
    }
    store_floats<kAligned>(row + col, valid, v);
  }
}

}  // namespace

void embed(const EmbeddingTable& table, const int* ids, int rows, float* x, long long ldx, cudaStream_t stream) {
  if (rows < 1 || table.vocab < 1 || table.hidden < 1 || ldx < table.hidden) {
    throw Error(ErrorKind::kUsage, "embed: " + std::to_string(rows) + " rows of a table [" +
                                       std::to_string(table.vocab) + ", " + std::to_string(table.hidden) +
                                       "], row stride " + std::to_string(ldx) +
                                       "; expected sizes from 1 and a stride of at least a row");
  }
  const bool aligned = table.hidden % kChunk == 0 && ldx % 4 == 0 && is_aligned(table.data) && is_aligned(x);
  const int chunks = (table.hidden + kChunk - 1) / kChunk;
  const LaunchShape shape{static_cast<unsigned>(rows), std::min(kThreads, (chunks + 31) / 32 * 32)};
  backend::check_cuda(with_dense_type(table.type,
                                      [&](auto type) {
                                        const auto kernel =
                                            aligned ? embed_kernel<type.value, true> : embed_kernel<type.value, false>;
                                        return launch(kernel, shape, stream, table, ids, x, ldx);
                                      }),
                      "embed");
}

}  // namespace fairway::kernels::cuda
