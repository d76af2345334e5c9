// One linear layer of whatever kind: picks the row, counts it, runs it.
#include "model/linear_apply.h"

#include "kernels/rms_norm/rms_norm.h"

namespace fairway::model {
namespace {

constexpr int kNormRowsPerTask = 16;  // about 10 us of work at 2048 columns, more than waking a worker costs

}  // namespace

void apply_linear(const kernels::LinearWeights& weights, const float* x, std::int64_t ldx, int m, float* y,
                  std::int64_t ldy, const Execution& exec) {
  if (m <= 0) return;
  if (exec.counters.linear_observer) exec.counters.linear_observer(weights, x, ldx, m);
  if (!weights.is_trellis()) {
    const kernels::DenseLinearRow* row = select::select_dense_linear(exec.policy, m);
    exec.counters.count_kernel(row->info);
    // A padded head stores more rows than are wanted; the view is cut, so the kernel writes exactly `out` columns.
    kernels::DenseMatrix matrix = weights.dense();
    matrix.out = weights.out;
    row->fn({&matrix, x, ldx, y, ldy, m}, exec.context);
    return;
  }
  const kernels::TrellisMatrix& matrix = weights.trellis();
  const std::uint8_t bits = static_cast<std::uint8_t>(matrix.bits);
  const auto choice =
      select::select_trellis_linear(exec.policy, {m, {bits, bits, bits}, kernels::codebook_bit(matrix.codebook)});
  exec.counters.count_kernel(choice.row->info);
  if (choice.fallback != select::Fallback::kNone) {
    ++exec.counters.fallbacks[static_cast<std::size_t>(choice.fallback)];
  }
  choice.row->fn({&matrix, x, ldx, weights.in, y, ldy, weights.out, m}, choice.row->info.tile, exec.context);
}

void norm_rows(const float* x, std::int64_t ldx, const float* weight, float eps, int m, int n, float* y,
               std::int64_t ldy, const Execution& exec) {
  for_row_blocks(exec.context.pool, m, kNormRowsPerTask, [&](int begin, int end) {
    kernels::rms_norm(x + begin * ldx, ldx, weight, eps, end - begin, n, y + begin * ldy, ldy);
  });
}

}  // namespace fairway::model
