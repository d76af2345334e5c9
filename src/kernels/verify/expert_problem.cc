// Random experts, their groups, and the call.
#include "kernels/verify/expert_problem.h"

namespace fairway::verify {

using kernels::BitTuple;
using kernels::MoeSwigluRow;

Expert::Expert(std::mt19937& random, int hidden, int intermediate, BitTuple bits, codec::Codebook codebook, bool bias)
    : gate(random, hidden, intermediate, bits.gate, codebook, bias),
      up(random, hidden, intermediate, bits.up, codebook, bias),
      down(random, intermediate, hidden, bits.down, codebook, bias),
      weights{gate.linear(), up.linear(), down.linear()} {}

DenseExpert::DenseExpert(std::mt19937& random, int hidden, int intermediate, kernels::DenseType type, bool bias)
    : gate(random, hidden, intermediate, type, bias),
      up(random, hidden, intermediate, type, bias),
      down(random, intermediate, hidden, type, bias),
      weights{gate.weights, up.weights, down.weights} {}

ExpertProblem::ExpertProblem(std::mt19937& random, int hidden_size, int row_count)
    : hidden(hidden_size), x_rows(row_count) {
  x = random_normal(random, static_cast<std::size_t>(x_rows) * static_cast<std::size_t>(hidden + kGap));
}

void ExpertProblem::add_rows(std::mt19937& random, const kernels::ExpertWeights& expert, int m) {
  std::vector<std::int32_t> chosen(static_cast<std::size_t>(m));
  for (std::int32_t& row : chosen) row = static_cast<std::int32_t>(random() % static_cast<unsigned>(x_rows));
  rows.push_back(std::move(chosen));
  groups.push_back({&expert, rows.back().data(), m, slots});
  slots += m;
}

void ExpertProblem::add_group(std::mt19937& random, int intermediate, BitTuple bits, codec::Codebook codebook, int m) {
  experts.push_back(std::make_unique<Expert>(random, hidden, intermediate, bits, codebook, experts.size() % 2 == 1));
  add_rows(random, experts.back()->weights, m);
}

void ExpertProblem::add_dense_group(std::mt19937& random, int intermediate, kernels::DenseType type, int m) {
  const bool bias = dense_experts.size() % 2 == 1;
  dense_experts.push_back(std::make_unique<DenseExpert>(random, hidden, intermediate, type, bias));
  add_rows(random, dense_experts.back()->weights, m);
}

std::vector<float> ExpertProblem::run(const MoeSwigluRow& row, int threads) const {
  return run(row, threads, row.info.tile);
}

std::vector<float> ExpertProblem::run(const MoeSwigluRow& row, int threads, const kernels::Tile& tile) const {
  backend::ThreadPool pool(threads);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  std::vector<float> y = poison(static_cast<std::size_t>(slots) * static_cast<std::size_t>(hidden));
  row.fn({x.data(), hidden + kGap, hidden, groups, y.data()}, tile, context);
  return y;
}

}  // namespace fairway::verify
