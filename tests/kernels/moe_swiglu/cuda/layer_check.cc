// Runs, references and comparisons of one layer.
#include "kernels/moe_swiglu/cuda/layer_check.cuh"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "backend/cuda/check.cuh"
#include "kernels/common/cuda/case_size.h"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr verify::Bound kBound{.row_relative = 0.003};
constexpr const char* kRoutingNames[] = {"uniform", "one for all", "few experts", "unused slots"};

// ids [tokens, top_k], distinct within a token.
std::vector<int> make_ids(Random& random, const LayerShape& shape, int tokens, Routing routing) {
  std::vector<int> ids;
  const int usable = routing == Routing::kFewExperts ? std::max(shape.top_k, shape.routed / 2) : shape.routed;
  for (int t = 0; t < tokens; ++t) {
    std::vector<int> pool(static_cast<std::size_t>(usable));
    std::iota(pool.begin(), pool.end(), 0);
    for (int j = 0; j < shape.top_k; ++j) std::swap(pool[j], pool[j + random.below(usable - j)]);
    if (routing == Routing::kOneForAll) {
      for (int& e : pool) {
        if (e == usable - 1) std::swap(e, pool[0]);
      }
    }
    for (int j = 0; j < shape.top_k; ++j) {
      ids.push_back(routing == Routing::kUnusedSlots && random.below(3) == 0 ? -1 - random.below(2) * 1000 : pool[j]);
    }
  }
  return ids;
}

// Device buffers that are reused by all runs of a problem.
struct Buffers {
  int* ids = nullptr;
  float *weights = nullptr, *y = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0, y_bytes = 0;

  explicit Buffers(const MoeLayer& layer) {
    workspace_bytes = moe_workspace_bytes(layer, kMaxTokens);
    y_bytes = sizeof(float) * kMaxTokens * layer.hidden;
    backend::check_cuda(cudaMalloc(&ids, sizeof(int) * kMaxTokens * (layer.top_k + 1)), "cudaMalloc");
    backend::check_cuda(cudaMalloc(&weights, sizeof(float) * kMaxTokens * (layer.top_k + 1)), "cudaMalloc");
    backend::check_cuda(cudaMalloc(&y, y_bytes), "cudaMalloc");
    backend::check_cuda(cudaMalloc(&workspace, workspace_bytes), "cudaMalloc");
  }
  ~Buffers() {
    for (void* p : {static_cast<void*>(ids), static_cast<void*>(weights), static_cast<void*>(y), workspace})
      cudaFree(p);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
};

std::vector<float> run_once(const Problem& problem, const Buffers& b, int tokens, MoePath path, int poison) {
  const MoeLayer& layer = problem.layer();
  backend::check_cuda(cudaMemset(b.workspace, poison, b.workspace_bytes), "poison");
  backend::check_cuda(cudaMemset(b.y, poison, b.y_bytes), "poison");
  const MoeCall call{problem.x(), layer.hidden, b.ids, b.weights, tokens, b.y, layer.hidden};
  moe_swiglu(layer, call, path, b.workspace, nullptr);
  std::vector<float> y(static_cast<std::size_t>(tokens) * layer.hidden);
  backend::check_cuda(cudaMemcpy(y.data(), b.y, y.size() * sizeof(float), cudaMemcpyDeviceToHost), moe_path_name(path));
  return y;
}

std::vector<double> reference_row(Problem& problem, const std::vector<int>& ids, const std::vector<float>& weights,
                                  int t) {
  const LayerShape& shape = problem.shape();
  std::vector<double> y(shape.hidden, 0.0);
  for (int j = 0; j < shape.top_k + shape.shared; ++j) {
    const bool routed = j < shape.top_k;
    const int expert = routed ? ids[t * shape.top_k + j] : shape.routed + j - shape.top_k;
    if (expert < 0) continue;
    const double weight = routed ? weights[t * shape.top_k + j] : 1.0;
    const std::vector<double>& one = problem.expert_output(t, expert);
    for (int n = 0; n < shape.hidden; ++n) y[n] += weight * one[n];
  }
  return y;
}

// References of the first `tokens` rows of y, rounded to floats.
std::vector<float> reference_rows(Problem& problem, const std::vector<int>& ids, const std::vector<float>& weights,
                                  int tokens) {
  std::vector<float> rows;
  for (int t = 0; t < tokens; ++t) {
    for (const double v : reference_row(problem, ids, weights, t)) rows.push_back(static_cast<float>(v));
  }
  return rows;
}

// Worst error of a row by path.
using Worst = std::vector<double>;

void check_case(Problem& problem, const Buffers& b, int tokens, Routing routing, const std::vector<MoePath>& paths,
                Worst& worst) {
  const LayerShape& shape = problem.shape();
  Random random(shape.seed * 1000 + static_cast<std::uint64_t>(tokens * 10 + static_cast<int>(routing)));
  const std::vector<int> ids = make_ids(random, shape, tokens, routing);
  std::vector<float> weights;
  for (std::size_t i = 0; i < ids.size(); ++i) weights.push_back(random.uniform(0.1f, 1.0f));
  backend::check_cuda(cudaMemcpy(b.ids, ids.data(), ids.size() * sizeof(int), cudaMemcpyHostToDevice), "ids");
  backend::check_cuda(cudaMemcpy(b.weights, weights.data(), weights.size() * sizeof(float), cudaMemcpyHostToDevice),
                      "weights");
  const std::vector<float> reference = reference_rows(problem, ids, weights, tokens);
  for (const MoePath path : paths) {
    if (!moe_path_legal(problem.layer(), path)) continue;
    std::vector<std::vector<float>> runs;
    for (const int poison : poisons()) runs.push_back(run_once(problem, b, tokens, path, poison));
    const std::vector<float>& y = runs.front();
    const std::string what = fmt::format("{}, {}, {} tokens, {}, seed {}", shape.name, moe_path_name(path), tokens,
                                         kRoutingNames[static_cast<int>(routing)], shape.seed);
    EXPECT_EQ(verify::compare(reference, y, shape.hidden, kBound), "") << what;
    EXPECT_EQ(verify::compare_exact(y, runs.back()), "") << what << ": two runs";
    double& most = worst[static_cast<std::size_t>(path)];
    most = std::max(most, verify::worst_row_error(reference, y, shape.hidden));
  }
}

}  // namespace

std::vector<MoePath> every_moe_path() {
  std::vector<MoePath> paths;
  for (int p = 0; p < kMoePaths; ++p) paths.push_back(static_cast<MoePath>(p));
  return paths;
}

void check_layer(const LayerShape& shape, const std::vector<int>& token_counts, int routings,
                 const std::vector<MoePath>& paths) {
  Problem problem(shape, kMaxTokens);
  const Buffers buffers(problem.layer());
  Worst worst(kMoePaths);
  for (const int tokens : token_counts) {
    for (int r = 0; r < routings; ++r) check_case(problem, buffers, tokens, static_cast<Routing>(r), paths, worst);
  }
  std::string line = fmt::format("{:<28}", shape.name);
  for (const MoePath path : paths) {
    if (!moe_path_legal(problem.layer(), path)) continue;
    line += fmt::format("  {} {:.1e}", moe_path_name(path), worst[static_cast<std::size_t>(path)]);
  }
  fmt::print("{}\n", line);
}

}  // namespace fairway::kernels::cuda::check
