// Inputs with poison between rows, and the call.
#include "kernels/verify/linear_problem.h"

#include <algorithm>

namespace fairway::verify {

std::vector<float> random_rows(std::mt19937& random, int m, int in) {
  const std::size_t stride = static_cast<std::size_t>(in + kInputGap);
  std::vector<float> x = poison(static_cast<std::size_t>(m) * stride);
  for (std::size_t r = 0; r < static_cast<std::size_t>(m); ++r) {
    const auto line = random_normal(random, static_cast<std::size_t>(in));
    std::copy(line.begin(), line.end(), x.begin() + static_cast<std::ptrdiff_t>(r * stride));
  }
  return x;
}

LinearResult run_linear(const kernels::TrellisLinearRow& row, const RandomTrellis& weights, const std::vector<float>& x,
                        int m, int threads, const kernels::Tile& tile) {
  backend::ThreadPool pool(threads);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  const std::int64_t ldy = weights.out_exact() + kOutputGap;
  std::vector<float> y = poison(static_cast<std::size_t>(m * ldy));
  row.fn({&weights.matrix(), x.data(), weights.in_exact() + kInputGap, weights.in_exact(), y.data(), ldy,
          weights.out_exact(), m},
         tile, context);
  LinearResult result;
  for (std::size_t r = 0; r < static_cast<std::size_t>(m); ++r) {
    const auto line = std::span(y).subspan(r * static_cast<std::size_t>(ldy), static_cast<std::size_t>(ldy));
    const auto gap = line.subspan(static_cast<std::size_t>(weights.out_exact()));
    result.gap_intact = result.gap_intact && still_poison(gap);
    result.y.insert(result.y.end(), line.begin(), line.begin() + weights.out_exact());
  }
  return result;
}

}  // namespace fairway::verify
