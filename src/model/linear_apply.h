// One linear layer of whatever kind: picks the row, counts it, runs it.
#pragma once

#include <cstdint>

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"
#include "moe/counters.h"
#include "select/select.h"

namespace fairway::model {

// What every step of a forward pass hands to the next.
struct Execution {
  const select::Policy& policy;
  kernels::KernelContext& context;
  moe::Counters& counters;
};

// y[m, weights.out] = x[m, weights.in] W + bias; row strides ldx, ldy in elements. x and y must not overlap.
void apply_linear(const kernels::LinearWeights& weights, const float* x, std::int64_t ldx, int m, float* y,
                  std::int64_t ldy, const Execution& exec);

// Rows [0, m) of body(begin, end) split over the pool; a few rows stay on the calling thread.
template <class Body>
void for_row_blocks(backend::ThreadPool& pool, int m, int rows_per_task, const Body& body) {
  if (m <= rows_per_task) {
    if (m > 0) body(0, m);
    return;
  }
  pool.parallel_for((m + rows_per_task - 1) / rows_per_task, [&](std::int64_t task, int) {
    const int begin = static_cast<int>(task) * rows_per_task;
    body(begin, begin + rows_per_task < m ? begin + rows_per_task : m);
  });
}

// rms_norm over [m, n] rows, split over the pool.
void norm_rows(const float* x, std::int64_t ldx, const float* weight, float eps, int m, int n, float* y,
               std::int64_t ldy, const Execution& exec);

}  // namespace fairway::model
