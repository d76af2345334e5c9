// Rows of the embedding table as floats.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common/matrix.h"

namespace fairway::kernels::cuda {

struct EmbeddingTable {
  const void* data;  // [vocab, hidden] row-major, device memory, 2-byte aligned (16 is faster)
  DenseType type;
  int vocab, hidden;  // >= 1
};

// x[r, 0..hidden) = table[ids[r], :], exactly. ids: [rows] on the device; an id outside 0..vocab-1 gives a row of NaN.
// ldx: elements from row to row, >= hidden. Error(kUsage) if a number is out of range.
void embed(const EmbeddingTable& table, const int* ids, int rows, float* x, long long ldx, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
