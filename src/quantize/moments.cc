// Rows are taken in blocks, transposed, and multiplied by themselves.
#include "quantize/moments.h"

#include <algorithm>
#include <cmath>

#include "codec/packing.h"
#include "quantize/matmul.h"

namespace fairway::quantize {
namespace {

constexpr int kBlockRows = 512;    // a block of 2048 columns is 4 MB, transposed
constexpr float kLargest = 1e15f;  // squares of larger values would overflow a sum of floats

bool is_usable(const float* row, int n) {
  for (int i = 0; i < n; ++i) {
    if (!(std::abs(row[i]) < kLargest)) return false;
  }
  return true;
}

}  // namespace

Moments::Moments(int in)
    : in_(in), dim_(codec::padded(in)), sum_(static_cast<std::size_t>(dim_) * static_cast<std::size_t>(dim_)) {}

void Moments::add(const float* x, std::int64_t ldx, const std::int32_t* rows, const float* weights, int m,
                  kernels::KernelContext& context) {
  std::vector<int> usable;
  for (int i = 0; i < m; ++i) {
    const bool good = is_usable(x + (rows == nullptr ? i : rows[i]) * ldx, in_);
    if (good) usable.push_back(i);
    dropped_ += !good;
  }
  backend::Workspace::Scope scope(context.workspace);
  const std::size_t dim = static_cast<std::size_t>(dim_);
  float* transposed = context.workspace.alloc<float>(dim * kBlockRows);
  float* product = context.workspace.alloc<float>(dim * dim);
  for (std::size_t begin = 0; begin < usable.size(); begin += kBlockRows) {
    const int count = static_cast<int>(std::min<std::size_t>(kBlockRows, usable.size() - begin));
    const std::size_t stride = static_cast<std::size_t>(count), in = static_cast<std::size_t>(in_);
    std::fill_n(transposed + in * stride, (dim - in) * stride, 0.0f);
    for (int i = 0; i < count; ++i) {
      const int which = usable[begin + static_cast<std::size_t>(i)];
      const float* row = x + (rows == nullptr ? which : rows[which]) * ldx;
      const float weight = weights == nullptr ? 1.0f : weights[which];
      const float scale = std::sqrt(weight);
      for (std::size_t c = 0; c < in; ++c) transposed[c * stride + static_cast<std::size_t>(i)] = scale * row[c];
      weight_ += static_cast<double>(weight);
    }
    matmul_nt(transposed, transposed, dim_, dim_, count, product, context);
    for (std::size_t i = 0; i < dim * dim; ++i) sum_[i] += product[i];
    rows_ += count;
  }
}

void Moments::add(const Moments& other, double scale) {
  for (std::size_t i = 0; i < sum_.size(); ++i) sum_[i] += static_cast<float>(scale) * other.sum_[i];
  weight_ += scale * other.weight_;
}

}  // namespace fairway::quantize
