// rope: rotary position embedding in both layouts.
#pragma once

#include <vector>

namespace fairway::kernels {

// cos and sin of position * theta^(-2i/dim) for i < dim/2, computed in double, for positions [0, size).
class RopeTable {
 public:
  RopeTable(int dim, double theta);
  int dim() const { return dim_; }
  void grow(int positions);                  // makes positions [0, positions) available
  const float* cos_row(int position) const;  // [dim/2]
  const float* sin_row(int position) const;  // [dim/2]

 private:
  int dim_;
  double theta_;
  int positions_ = 0;
  std::vector<float> cos_, sin_;
};

enum class RopeLayout { kInterleaved, kHalves };

// Rotates x[0..dim) in place. kHalves: pairs (i, i + dim/2), result in the same places. kInterleaved: pairs
// (2i, 2i+1) of the input; the result is written de-interleaved, pair i to (i, i + dim/2), as Hugging Face's
// DeepSeek-V3 code does (queries and keys agree, so scores are unchanged).
void apply_rope(float* x, const RopeTable& table, int position, RopeLayout layout);

}  // namespace fairway::kernels
