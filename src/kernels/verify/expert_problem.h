// Random expert layers, and calls of moe_swiglu rows on them.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/verify/random_weights.h"

namespace fairway::verify {

struct Expert {
  Expert(std::mt19937& random, int hidden, int intermediate, kernels::BitTuple bits, codec::Codebook codebook,
         bool bias);

  RandomTrellis gate, up, down;
  kernels::ExpertWeights weights;
};

struct DenseExpert {
  DenseExpert(std::mt19937& random, int hidden, int intermediate, kernels::DenseType type, bool bias);

  RandomDense gate, up, down;
  kernels::ExpertWeights weights;
};

// A layer with random experts and a random assignment of rows of x to groups.
struct ExpertProblem {
  static constexpr int kGap = 7;  // columns between two rows of x

  int hidden;
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<std::unique_ptr<DenseExpert>> dense_experts;
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<kernels::ExpertGroup> groups;
  std::vector<float> x;  // [x_rows, hidden + kGap]
  int x_rows;
  std::int64_t slots = 0;

  ExpertProblem(std::mt19937& random, int hidden_size, int row_count);
  void add_group(std::mt19937& random, int intermediate, kernels::BitTuple bits, codec::Codebook codebook, int m);
  void add_dense_group(std::mt19937& random, int intermediate, kernels::DenseType type, int m);

  // [slots, hidden], poisoned before the call.
  std::vector<float> run(const kernels::MoeSwigluRow& row, int threads) const;
  std::vector<float> run(const kernels::MoeSwigluRow& row, int threads, const kernels::Tile& tile) const;

 private:
  void add_rows(std::mt19937& random, const kernels::ExpertWeights& expert, int m);
};

}  // namespace fairway::verify
