// The attention half of a layer: projections, norms, rotation, cache rows, attention, output projection.
#pragma once

#include "kernels/rope/rope.h"
#include "model/linear_apply.h"
#include "model/weights.h"

namespace fairway::model {

// Where the rows of this pass stand: positions start .. start + m - 1 of one layer's cache.
struct CacheSlice {
  float* rows;  // position 0
  std::int64_t row_elems;
  int start;
  const kernels::RopeTable& rope;  // covers start + m positions
};

// out[m, hidden] = attention(x[m, hidden]); writes the m new cache rows. x and out must not overlap.
void mla_block(const MlaWeights& weights, const formats::ModelConfig& config, const float* x, int m,
               const CacheSlice& cache, MlaPath path, float* out, const Execution& exec);
void gqa_block(const GqaWeights& weights, const formats::ModelConfig& config, const float* x, int m,
               const CacheSlice& cache, float* out, const Execution& exec);

}  // namespace fairway::model
