// Products with the rows of dense_linear: a product is a dense layer whose weights are the second factor.
#include "quantize/matmul.h"

#include "kernels/dense_linear/dense_linear.h"
#include "select/select.h"

namespace fairway::quantize {
namespace {

void run(const kernels::DenseMatrix& matrix, const float* x, int m, float* y, kernels::KernelContext& context) {
  static const select::Policy policy = select::make_policy("", "", "");
  select::select_dense_linear(policy, m)->fn({&matrix, x, matrix.in, y, matrix.out, m}, context);
}

}  // namespace

void matmul_nt(const float* a, const float* b, int m, int n, int k, float* c, kernels::KernelContext& context) {
  run({reinterpret_cast<const std::uint8_t*>(b), kernels::DenseType::kF32, k, n, nullptr}, a, m, c, context);
}

void apply_dense(const kernels::LinearWeights& weights, const float* x, int m, float* y,
                 kernels::KernelContext& context) {
  run(weights.dense(), x, m, y, context);
}

}  // namespace fairway::quantize
