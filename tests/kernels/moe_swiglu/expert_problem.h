// Random expert layers for the tests of the trellis rows of moe_swiglu, and the bounds of these rows.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "backend/cpu/features.h"
#include "common/compare.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_band/trellis_fixture.h"

namespace fairway::kernels {

// Of this machine.
inline std::vector<const MoeSwigluRow*> trellis_moe_rows() {
  std::vector<const MoeSwigluRow*> rows;
  for (const MoeSwigluRow& row : moe_swiglu_rows()) {
    if (row.info.weights == WeightKind::kTrellis && can_run(row.info, backend::cpu_info().features))
      rows.push_back(&row);
  }
  return rows;
}

// Errors of gate and up add to that of down: sqrt(3) times; silu passes up to 1.1 times the error of a gate, and small
// gates have larger relative errors.
inline test::Bound bound_of(const KernelRow& row, int k) {
  if (row.activations != Activations::kFp32)
    return {.row_relative = 1.1 * std::sqrt(3.0) * test::product_error(row, k)};
  return {.row_relative = 4 * (4 * std::sqrt(static_cast<double>(k)) + 16) * std::ldexp(1.0, -24)};
}

struct Expert {
  test::RandomTrellis gate, up, down;
  ExpertWeights weights;

  Expert(std::mt19937& random, int hidden, int intermediate, BitTuple bits, codec::Codebook codebook, bool bias)
      : gate(random, hidden, intermediate, bits.gate, codebook, bias),
        up(random, hidden, intermediate, bits.up, codebook, bias),
        down(random, intermediate, hidden, bits.down, codebook, bias),
        weights{gate.linear(), up.linear(), down.linear()} {}
};

// A layer with random experts and a random assignment of rows of x to groups.
struct ExpertProblem {
  int hidden;
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<ExpertGroup> groups;
  std::vector<float> x;
  int x_rows;
  std::int64_t slots = 0;

  ExpertProblem(std::mt19937& random, int hidden_size, int row_count) : hidden(hidden_size), x_rows(row_count) {
    x = test::random_normal(random, static_cast<std::size_t>(x_rows * (hidden + 7)));
  }
  void add_group(std::mt19937& random, int intermediate, BitTuple bits, codec::Codebook codebook, int m) {
    experts.push_back(std::make_unique<Expert>(random, hidden, intermediate, bits, codebook, experts.size() % 2 == 1));
    std::vector<std::int32_t> chosen;
    for (int i = 0; i < m; ++i) chosen.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(x_rows)));
    rows.push_back(std::move(chosen));
    groups.push_back({&experts.back()->weights, rows.back().data(), m, slots});
    slots += m;
  }
  std::vector<float> run(const MoeSwigluRow& row, int threads) const { return run(row, threads, row.info.tile); }
  std::vector<float> run(const MoeSwigluRow& row, int threads, const Tile& tile) const {
    backend::ThreadPool pool(threads);
    backend::Workspace workspace;
    KernelContext context{pool, workspace};
    std::vector<float> y = test::poison(static_cast<std::size_t>(slots * hidden));
    row.fn({x.data(), hidden + 7, hidden, groups, y.data()}, tile, context);
    return y;
  }
};

}  // namespace fairway::kernels
