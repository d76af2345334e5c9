// Right-looking elimination in blocks of 16, in double.
#include "quantize/block_ldl.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <optional>

#include "codec/trellis.h"
#include "fairway/error.h"

namespace fairway::quantize {
namespace {

constexpr int kBlock = codec::kTileDim;
constexpr int kTries = 10;
constexpr double kMoreDamping = 0.05;  // of the mean of the diagonal, at each further try

using Block = std::array<double, kBlock * kBlock>;

// In place Cholesky factor of a 16 x 16 block, then its inverse; false if it is not positive definite.
bool invert_spd(const Block& a, Block& inverse) {
  Block c{};
  for (int i = 0; i < kBlock; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = a[i * kBlock + j];
      for (int k = 0; k < j; ++k) sum -= c[i * kBlock + k] * c[j * kBlock + k];
      if (i != j) {
        c[i * kBlock + j] = sum / c[j * kBlock + j];
      } else if (!(sum > 0)) {
        return false;
      } else {
        c[i * kBlock + i] = std::sqrt(sum);
      }
    }
  }
  for (int column = 0; column < kBlock; ++column) {
    double x[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      double sum = i == column ? 1 : 0;
      for (int k = 0; k < i; ++k) sum -= c[i * kBlock + k] * x[k];
      x[i] = sum / c[i * kBlock + i];
    }
    for (int i = kBlock - 1; i >= 0; --i) {
      double sum = x[i];
      for (int k = i + 1; k < kBlock; ++k) sum -= c[k * kBlock + i] * x[k];
      x[i] = sum / c[i * kBlock + i];
    }
    for (int i = 0; i < kBlock; ++i) inverse[i * kBlock + column] = x[i];
  }
  return true;
}

// One try: `a` is overwritten by what is left of it.
std::optional<BlockLdl> eliminate(std::vector<double>& a, int n, kernels::KernelContext& context) {
  const std::size_t dim = static_cast<std::size_t>(n);
  BlockLdl result{n, std::vector<float>(dim * dim), std::vector<double>(dim), 0};
  std::vector<double> factor(dim * kBlock), panel(kBlock * dim);  // L's block column; the column of A, transposed
  for (int b = 0; b < n; b += kBlock) {
    Block d, inverse;
    for (int i = 0; i < kBlock; ++i) {
      for (int j = 0; j < kBlock; ++j) d[i * kBlock + j] = a[(b + i) * dim + b + j];
      result.diagonal[b + i] = d[i * kBlock + i];
      result.trace += d[i * kBlock + i];
    }
    if (!invert_spd(d, inverse)) return std::nullopt;
    const int below = b + kBlock;
    context.pool.parallel_for((n - below) / kBlock, [&](std::int64_t task, int) {
      for (int i = below + static_cast<int>(task) * kBlock, end = i + kBlock; i < end; ++i) {
        for (int j = 0; j < kBlock; ++j) {
          double sum = 0;
          for (int k = 0; k < kBlock; ++k) sum += a[i * dim + b + k] * inverse[k * kBlock + j];
          factor[static_cast<std::size_t>(i) * kBlock + j] = sum;
          result.lower[i * dim + b + j] = static_cast<float>(sum);
          panel[j * dim + i] = a[i * dim + b + j];
        }
      }
    });
    context.pool.parallel_for((n - below) / kBlock, [&](std::int64_t task, int) {
      for (int i = below + static_cast<int>(task) * kBlock, end = i + kBlock; i < end; ++i) {
        double* row = &a[i * dim];
        for (int k = 0; k < kBlock; ++k) {
          const double f = factor[static_cast<std::size_t>(i) * kBlock + k];
          const double* from = &panel[k * dim];
          // The whole block on the diagonal, although its upper half is not needed elsewhere.
          for (int j = below; j < end; ++j) row[j] -= f * from[j];
        }
      }
    });
  }
  return result;
}

}  // namespace

BlockLdl block_ldl(const std::vector<double>& h, int dim, double damping, kernels::KernelContext& context) {
  double mean = 0;
  for (int i = 0; i < dim; ++i) mean += h[static_cast<std::size_t>(i) * dim + i] / dim;
  for (int t = 0; t < kTries; ++t) {
    std::vector<double> a = h;
    for (int i = 0; i < dim; ++i) a[static_cast<std::size_t>(i) * dim + i] += (damping + t * kMoreDamping) * mean;
    if (auto result = eliminate(a, dim, context)) return std::move(*result);
  }
  throw Error(ErrorKind::kBadInput,
              fmt::format("a Hessian of {} inputs with mean diagonal {} could not be factored", dim, mean));
}

}  // namespace fairway::quantize
