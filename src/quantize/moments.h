// Second moments of the inputs of a linear layer: what a change of its weights does to its outputs.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/context.h"

namespace fairway::quantize {

// The sum of w x x^T over calibration rows x[in] of weight w. Rows with a value that is not finite, or whose squares
// would not be, are left out and counted.
class Moments {
 public:
  Moments() = default;
  // For inputs of `in` values, padded with zeros to a multiple of 128.
  explicit Moments(int in);

  // Rows `rows[i]` of x (all m rows if null), row stride ldx; weights[i] >= 0 belongs to rows[i], null: 1 each.
  void add(const float* x, std::int64_t ldx, const std::int32_t* rows, const float* weights, int m,
           kernels::KernelContext& context);
  // Adds another sum of the same size, scaled.
  void add(const Moments& other, double scale);

  int dim() const { return dim_; }             // padded
  std::int64_t rows() const { return rows_; }  // that were added
  std::int64_t dropped() const { return dropped_; }
  double weight() const { return weight_; }               // sum of the weights
  const std::vector<float>& sum() const { return sum_; }  // [dim, dim], symmetric

 private:
  int in_ = 0, dim_ = 0;
  std::int64_t rows_ = 0, dropped_ = 0;
  double weight_ = 0;
  std::vector<float> sum_;
};

}  // namespace fairway::quantize
