// What the kernels of a forward pass share: which positions its rows are, and where keys and values are kept.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

namespace fairway::kernels::cuda {

// Row r of a pass is position `position[r]` of sequence `sequence[r]`. Device arrays, so that a recorded step can be
// replayed for other positions.
struct PassRows {
  const int* sequence;
  const int* position;
  int count;  // >= 1
};

// E4M3 saturates at 448; values are stored without a scale.
enum class CacheType { kHalf, kE4m3 };

constexpr int cache_type_bytes(CacheType type) {
  return type == CacheType::kHalf ? 2 : 1;
}

// The cache of one layer: the row of position p of sequence s begins at element (s * sequence_rows + p) * row_elems.
// MLA: [latent after its norm | rotated key]. GQA: [keys of all heads | values of all heads].
struct LayerCache {
  void* data;  // device memory, 16-byte aligned
  CacheType type;
  int row_elems;      // a multiple of 16
  int sequence_rows;  // positions that a sequence may have
};

}  // namespace fairway::kernels::cuda
