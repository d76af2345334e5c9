// Random trellis-coded linear layers, and calls of trellis_linear rows on them.
#pragma once

#include <random>
#include <vector>

#include "kernels/trellis_linear/trellis_linear.h"
#include "kernels/verify/random_weights.h"

namespace fairway::verify {

constexpr int kInputGap = 5, kOutputGap = 3;  // columns between two rows

// x[m][in + kInputGap] with poison in the gap: it must not be read as values.
std::vector<float> random_rows(std::mt19937& random, int m, int in);

struct LinearResult {
  std::vector<float> y;    // [m, out]
  bool gap_intact = true;  // the columns between two rows of y were left alone
};
LinearResult run_linear(const kernels::TrellisLinearRow& row, const RandomTrellis& weights, const std::vector<float>& x,
                        int m, int threads, const kernels::Tile& tile);

}  // namespace fairway::verify
