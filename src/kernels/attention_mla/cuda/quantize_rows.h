// Rows of a matrix as 8-bit integers with one scale each, as the CUDA kernels of attention_mla read kv_b_proj.
#pragma once

#include <span>
#include <vector>

namespace fairway::kernels {

// matrix: [rows, columns], finite. weights: [rows, columns], scales: [rows]; matrix is about scale * weight, with
// scale = max |row| / 127 and the nearest weight. Rows of zeros have scale 0.
// The error of an element is at most scale / 2. For normally distributed rows of 512 it is 0.7 % of the row's norm.
void quantize_rows_int8(const float* matrix, int rows, int columns, signed char* weights, float* scales);

// For rows that are multiplied with vectors of known second moments H: where columns of a row are added up with like
// factors, what rounding one of them did can be made good by the next. With H = U D U^T, U unit upper triangular, the
// mean square of the error of a product is that of independent errors weighed by D if every weight is rounded after
// the errors of the columns before it, times their U, were added to it (LDLQ; Chee et al., QuIP, arXiv 2307.13304).
class RoundingFeedback {
 public:
  // moments: [columns, columns], symmetric, finite and positive semidefinite. A hundredth of the mean of its diagonal
  // is added to the diagonal, for what it does not know.
  RoundingFeedback(std::span<const double> moments, int columns);

  int columns() const { return columns_; }
  // Factors of the errors of columns 0 .. column - 1.
  const float* of_column(int column) const { return &factors_[static_cast<std::size_t>(column) * width_]; }

 private:
  int columns_;
  std::size_t width_;
  std::vector<float> factors_;  // U transposed
};

// As above, with weights that make the error of the products small instead of every weight's own; the scales are the
// same. Rows may be given in parts, by several threads.
void quantize_rows_int8(const float* matrix, int rows, const RoundingFeedback& feedback, signed char* weights,
                        float* scales);

}  // namespace fairway::kernels
