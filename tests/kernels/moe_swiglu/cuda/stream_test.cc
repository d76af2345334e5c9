// What only the stream paths of the CUDA expert layer have: state on the device from one launch to the next, calls in
// several launches, stamps.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "backend/cuda/check.cuh"
#include "codec/trellis.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/moe_swiglu/cuda/problem.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

using backend::check_cuda;

constexpr int kMul1 = static_cast<int>(codec::Codebook::kMul1);
constexpr MoePath kStreamPaths[] = {MoePath::kIntStream, MoePath::kIntStream3};

// A layer and the buffers of calls of up to `tokens` tokens.
class Layer {
 public:
  Layer(const LayerShape& shape, int tokens) : problem_(shape, tokens), tokens_(tokens) {
    std::vector<int> ids;
    Random random(shape.seed);
    for (int t = 0; t < tokens; ++t) {
      const int first = random.below(shape.routed);
      for (int j = 0; j < shape.top_k; ++j) ids.push_back((first + j) % shape.routed);
    }
    const std::vector<float> weights(ids.size(), 0.25f);
    workspace_bytes_ = moe_workspace_bytes(layer(), tokens);
    ids_ = allocate<int>(ids.size());
    weights_ = allocate<float>(ids.size());
    y_ = allocate<float>(y_count());
    workspace_ = allocate<unsigned char>(workspace_bytes_);
    route(ids);
    check_cuda(cudaMemcpy(weights_, weights.data(), weights.size() * sizeof(float), cudaMemcpyHostToDevice), "weights");
  }
  ~Layer() {
    for (void* p : allocations_) cudaFree(p);
  }
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  const MoeLayer& layer() const { return problem_.layer(); }
  MoeCall call(int tokens) const { return {problem_.x(), layer().hidden, ids_, weights_, tokens, y_, layer().hidden}; }
  void* workspace() const { return workspace_; }

  // ids [tokens, top_k] of calls from now on.
  void route(const std::vector<int>& ids) const {
    check_cuda(cudaMemcpy(ids_, ids.data(), ids.size() * sizeof(int), cudaMemcpyHostToDevice), "ids");
  }

  void poison(int value) const {
    check_cuda(cudaMemset(workspace_, value, workspace_bytes_), "poison");
    check_cuda(cudaMemset(y_, value, y_count() * sizeof(float)), "poison");
  }
  std::vector<float> y(int tokens) const {
    std::vector<float> values(static_cast<std::size_t>(tokens) * layer().hidden);
    check_cuda(cudaMemcpy(values.data(), y_, values.size() * sizeof(float), cudaMemcpyDeviceToHost), "y");
    return values;
  }
  std::vector<float> run(int tokens, MoePath path) const {
    poison(0xFF);
    moe_swiglu(layer(), call(tokens), path, workspace_, nullptr);
    return y(tokens);
  }

 private:
  std::size_t y_count() const { return static_cast<std::size_t>(tokens_) * layer().hidden; }
  template <typename T>
  T* allocate(std::size_t count) {
    void* p = nullptr;
    check_cuda(cudaMalloc(&p, count * sizeof(T)), "cudaMalloc");
    allocations_.push_back(p);
    return static_cast<T*>(p);
  }

  Problem problem_;
  int tokens_;
  std::vector<void*> allocations_;
  std::size_t workspace_bytes_ = 0;
  int* ids_ = nullptr;
  float *weights_ = nullptr, *y_ = nullptr;
  unsigned char* workspace_ = nullptr;
};

TEST(GpuMoeStream, LaunchesOfDifferentSizesFollowEachOtherOnAnyScratch) {
  const Layer layer({"stream, sizes", 5, 1, 2, 256, 256, 0, kMul1, true, 51}, 5);
  std::vector<std::vector<float>> first;
  for (int round = 0; round < (single_runs() ? 1 : 2); ++round) {
    std::size_t at = 0;
    for (const MoePath path : kStreamPaths) {
      for (const int tokens : {5, 1, 2, 1}) {
        const std::vector<float> y = layer.run(tokens, path);
        if (round == 0) {
          first.push_back(y);
        } else {
          EXPECT_EQ(verify::compare_exact(first[at++], y), "") << moe_path_name(path) << ", " << tokens << " tokens";
        }
      }
    }
  }
  EXPECT_EQ(verify::compare_exact(first[1], first[3]), "");
}

TEST(GpuMoeStream, RecordedLaunchesCanBeReplayed) {
  const Layer layer({"stream, graph", 4, 1, 2, 256, 128, 3, kMul1, false, 52}, 2);
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  for (const MoePath path : kStreamPaths) {
    const std::vector<float> expected = layer.run(2, path);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < 3; ++i) moe_swiglu(layer.layer(), layer.call(2), path, layer.workspace(), stream);
    check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
    check_cuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    for (const int poison : by_size<std::vector<int>>({0xFF, 0x7F, 0}, {0xFF, 0x7F, 0}, {0})) {
      layer.poison(poison);
      check_cuda(cudaDeviceSynchronize(), "poison");
      check_cuda(cudaGraphLaunch(exec, stream), "graph");
      check_cuda(cudaStreamSynchronize(stream), "graph");
      EXPECT_EQ(verify::compare_exact(expected, layer.y(2)), "") << moe_path_name(path);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
  cudaStreamDestroy(stream);
}

TEST(GpuMoeStream, CallsOfMoreSlotsThanALaunchHasAreCut) {
  constexpr int kTokens = 31;  // of 9 slots; a launch has 256
  const Layer layer({"stream, many slots", 8, 1, 8, 128, 128, 2, kMul1, true, 53}, kTokens);
  const std::vector<float> expected = layer.run(kTokens, MoePath::kInt4);
  for (const MoePath path : kStreamPaths) {
    EXPECT_EQ(verify::compare(expected, layer.run(kTokens, path), 128, {.row_relative = 0.001}), "")
        << moe_path_name(path);
  }
}

// At most 32 slots have a table of their own kind, above that the general one.
TEST(GpuMoeStream, SharedAndUnusedSlotsInSmallAndLargeTables) {
  constexpr int kTokens = 11, kTopK = 3;
  const Layer layer({"stream, tables", 6, 1, kTopK, 128, 256, 0, kMul1, true, 55}, kTokens);
  std::vector<int> ids;
  for (int t = 0; t < kTokens; ++t) {  // expert 3 for all tokens, every third token without one of its others
    ids.insert(ids.end(), {t % 3 == 0 ? -1 : 4 + t % 2, 3, t % 3});
  }
  layer.route(ids);
  const std::vector<int> all{1, 5, 8, 9, kTokens};
  for (const int tokens : by_size(all, all, {8, kTokens})) {
    const std::vector<float> expected = layer.run(tokens, MoePath::kInt4);
    for (const MoePath path : kStreamPaths) {
      EXPECT_EQ(verify::compare(expected, layer.run(tokens, path), 128, {.row_relative = 0.001}), "")
          << moe_path_name(path) << ", " << tokens << " tokens";
    }
  }
}

// Up to four tokens: pieces of down that go to other warps, runs that cross segments, an expert twice for a token, more
// slots and pieces than are added up at once, and none.
TEST(GpuMoeStream, FewTokensWhateverTheRoutes) {
  constexpr int kTokens = 4, kTopK = 6;
  const auto steps = by_size<std::size_t>(1, 3);
  const Layer narrow({"stream, few, narrow", 7, 1, kTopK, 256, 128, 0, kMul1, true, 59}, kTokens);
  const Layer wide({"stream, few, wide", 4, 0, kTopK, 128, 1024, 0, kMul1, false, 60}, kTokens);
  const std::vector<int> routes[] = {
      {0, 1, 2, 3, 2, 1}, {3, 3, 3, 3, 3, 3}, {-1, 2, -1, 0, -1, 2}, {1, -1, -1, -1, -1, -1}, {-1, -1, -1, -1, -1, -1}};
  for (const Layer* l : {&narrow, &wide}) {
    for (std::size_t shift = 0; shift < std::size(routes); shift += steps) {
      std::vector<int> ids;
      for (std::size_t t = 0; t < kTokens; ++t) {
        const std::vector<int>& route = routes[(t + shift) % std::size(routes)];
        ids.insert(ids.end(), route.begin(), route.end());
      }
      l->route(ids);
      for (const int tokens : {1, shift % 2 == 1 ? kTokens : 2}) {
        const std::vector<float> expected = l->run(tokens, MoePath::kInt4), y = l->run(tokens, MoePath::kIntStream);
        EXPECT_EQ(verify::compare(expected, y, 128, {.row_relative = 0.001}), "") << tokens << " tokens, " << shift;
        if (single_runs()) continue;
        EXPECT_EQ(verify::compare_exact(y, l->run(tokens, MoePath::kIntStream)), "") << tokens << " tokens, " << shift;
      }
    }
  }
}

// From 20 tokens on, segments have up to eight, and those of more than four cost more than others.
TEST(GpuMoeStream, SegmentsOfUnequalCost) {
  constexpr int kTokens = 29, kTopK = 3;
  const Layer layer({"stream, costs", 7, 1, kTopK, 256, 128, 0, kMul1, true, 57}, kTokens);
  const Layer own_scales({"stream, costs, separate suh", 7, 1, kTopK, 128, 128, 0, kMul1, false, 58}, kTokens);
  std::vector<int> ids;
  for (int t = 0; t < kTokens; ++t) {  // an expert of every token, others of 1 to 16, some unused slots
    ids.insert(ids.end(), {t == 20 ? 5 : t % 2 == 0 ? 4 : -1, 3, t < 5 ? 0 : t < 13 ? 1 : 2});
  }
  for (const Layer* l : {&layer, &own_scales}) {
    l->route(ids);
    const std::vector<float> expected = l->run(kTokens, MoePath::kInt4);
    for (const MoePath path : kStreamPaths) {
      const std::vector<float> y = l->run(kTokens, path);
      EXPECT_EQ(verify::compare(expected, y, 128, {.row_relative = 0.001}), "") << moe_path_name(path);
      if (single_runs()) continue;
      EXPECT_EQ(verify::compare_exact(y, l->run(kTokens, path)), "") << moe_path_name(path);
    }
  }
}

TEST(GpuMoeStream, WithoutAnyExpertTheOutputIsZero) {
  constexpr int kTokens = 20;
  const Layer layer({"stream, unused", 4, 0, 2, 256, 128, 3, kMul1, true, 56}, kTokens);
  layer.route(std::vector<int>(2 * kTokens, -1));
  for (const MoePath path : kStreamPaths) {
    for (const int tokens : {1, kTokens}) {
      const std::vector<float> zeros(static_cast<std::size_t>(tokens) * 256, 0.0f);
      EXPECT_EQ(verify::compare_exact(zeros, layer.run(tokens, path)), "") << moe_path_name(path);
    }
  }
}

TEST(GpuMoeStream, EveryWayToLaunchGivesTheSameAndStampsGrow) {
  const Layer layer({"stream, stamps", 4, 0, 2, 256, 128, 3, kMul1, true, 54}, 1);
  std::vector<long long> stamps(std::size_t{kMoeMostCtas} * kMoeStamps);
  const std::size_t bytes = stamps.size() * sizeof(long long);
  void* on_device = nullptr;
  check_cuda(cudaMalloc(&on_device, bytes), "cudaMalloc");
  for (const MoePath path : kStreamPaths) {
    const std::vector<float> expected = layer.run(1, path);
    for (const auto& [together, chained] : {std::pair{false, true}, {false, false}, {true, true}, {true, false}}) {
      check_cuda(cudaMemset(on_device, 0, bytes), "clear");
      layer.poison(0xFF);
      MoeCall call = layer.call(1);
      call.probe = {static_cast<long long*>(on_device), together, chained};
      moe_swiglu(layer.layer(), call, path, layer.workspace(), nullptr);
      EXPECT_EQ(verify::compare_exact(expected, layer.y(1)), "") << moe_path_name(path);
      check_cuda(cudaMemcpy(stamps.data(), on_device, bytes, cudaMemcpyDeviceToHost), "stamps");
      int working = 0;
      for (std::size_t at = 0; at < stamps.size(); at += kMoeStamps) {
        if (stamps[at + kStampSums] == 0) continue;
        ++working;
        // Inputs may be there before the table, where they do not depend on it.
        EXPECT_LT(stamps[at + kStampStart], stamps[at + kStampTable]);
        EXPECT_LT(stamps[at + kStampStart], stamps[at + kStampInput]);
        EXPECT_LT(stamps[at + kStampTable], stamps[at + kStampGateUp]);
        for (int i = kStampInput; i < kStampSums; ++i) EXPECT_LT(stamps[at + i], stamps[at + i + 1]) << i;
        EXPECT_LE(stamps[at + kStampEntered], stamps[at + kStampReleased]);
        EXPECT_LE(stamps[at + kStampReleased], stamps[at + kStampLeft]);
      }
      EXPECT_GT(working, 0);
    }
  }
  cudaFree(on_device);
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
