// Launches of the stream path that begin before the routes are known: calls with the norm in front.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "backend/cuda/check.cuh"
#include "codec/trellis.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/moe_swiglu/cuda/problem.cuh"
#include "kernels/moe_swiglu/cuda/stream_launch.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

using backend::check_cuda;

constexpr int kMul1 = static_cast<int>(codec::Codebook::kMul1), kTokens = 5;
constexpr float kEps = 1e-5f;

// Rows in front of a norm and, rounded to halves, behind it.
struct Rows {
  std::vector<float> x, weight, normed;

  Rows(int hidden, int n, float scale, Random& random) {
    for (int i = 0; i < n; ++i) weight.push_back(random.uniform(0.5f, 1.5f));
    normed.assign(static_cast<std::size_t>(kTokens) * hidden, 0.0f);
    for (int t = 0; t < kTokens; ++t) {
      double squares = 0;
      for (int i = 0; i < n; ++i) {
        x.push_back(t == 2 ? 0.0f : scale * (i == 3 ? 40 : 1) * random.normal());  // a row of zeros
        squares += static_cast<double>(x.back()) * x.back();
      }
      const double factor = 1 / std::sqrt(squares / n + kEps);
      for (int i = 0; i < n; ++i) {
        const double v = x[static_cast<std::size_t>(t) * n + i] * factor * weight[i];
        normed[static_cast<std::size_t>(t) * hidden + i] = rounded_to_half(static_cast<float>(v));
      }
    }
  }
};

// Every slot an expert, one slot in four unused, or none used.
enum class Use { kAll, kSome, kNone };

std::vector<int> make_ids(const MoeLayer& layer, Use use, Random& random) {
  std::vector<int> ids;
  for (int t = 0; t < kTokens; ++t) {
    const int first = random.below(std::max(layer.routed, 1));
    for (int j = 0; j < layer.top_k; ++j) {
      const bool unused = use == Use::kNone || (use == Use::kSome && random.below(4) == 0);
      ids.push_back(unused ? -1 : (first + j) % layer.routed);
    }
  }
  return ids;
}

unsigned bits_of(float v) {
  unsigned bits = 0;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

unsigned turn_of(const AnnouncedRoutes& announced) {
  unsigned turn = 0;
  check_cuda(cudaMemcpy(&turn, announced.turn, sizeof turn, cudaMemcpyDeviceToHost), "turn");
  return turn;
}

class EarlyLayer {
 public:
  EarlyLayer(const LayerShape& shape, int n, float scale)
      : problem_(shape, 1),
        random_(shape.seed + 100),
        rows_(shape.hidden, n, scale, random_),
        workspace_bytes_(moe_workspace_bytes(layer(), kTokens)) {
    std::vector<float> weights;
    weights.reserve(static_cast<std::size_t>(kTokens) * layer().top_k + 1);
    for (int i = 0; i < kTokens * layer().top_k; ++i) weights.push_back(random_.uniform(0.1f, 1.0f));
    weights.push_back(0);
    weights_ = device_.upload(weights);
    weights_here_ = weights;
    nonsense_ = device_.upload(std::vector<int>(weights.size(), -1));
    norm_ = {device_.upload(rows_.x), n, device_.upload(rows_.weight), kEps, n};
    halves_ = device_.upload(to_halves(rows_.normed));
    nans_ = device_.upload(std::vector<float>(rows_.normed.size() / 2, std::nanf("")));
    y_ = device_.upload(std::vector<float>(rows_.normed.size()));
    workspace_ = device_.upload(std::vector<unsigned char>(workspace_bytes_));
    route(Use::kAll);
  }

  const MoeLayer& layer() const { return problem_.layer(); }
  void route(Use use) {
    std::vector<int> ids = make_ids(layer(), use, random_);
    ids.push_back(0);
    ids_ = device_.upload(ids);
    ids_here_ = ids;
  }

  // Announces the routes for the next run, as a router would, with a number that has not been there yet.
  AnnouncedRoutes announce() {
    std::vector<uint4> units;
    units.reserve(static_cast<std::size_t>(kTokens) * layer().top_k + 1);
    const unsigned number = ++turn_here_;
    for (int i = 0; i < kTokens * layer().top_k; ++i) {
      units.push_back({static_cast<unsigned>(ids_here_[i]), number, bits_of(weights_here_[i]), number});
    }
    units.push_back({});
    const std::vector<unsigned> turn{number - 1};
    return {device_.upload(units), device_.upload(turn)};
  }

  bool polls_row(int tokens) const { return moe_polls_row(layer(), tokens, MoePath::kIntStream, norm_); }

  // The same launch when it is also told that the row is there, as a router tells it, if it can be.
  void check_row(int tokens, const std::vector<float>& expected, const std::string& what) {
    if (!polls_row(tokens)) return;
    AnnouncedRoutes announced = announce();
    announced.row = device_.upload(std::vector<unsigned>{turn_here_});
    EXPECT_EQ(verify::compare_exact(expected, run(tokens, MoePath::kIntStream, true, 0x7F, announced)), "")
        << what << ": announced row";
  }

  // With the norm the rows behind it are NaNs: only a launch that does not read them gives numbers.
  // Announced routes are the only ones.
  std::vector<float> run(int tokens, MoePath path, bool with_norm, int poison, const AnnouncedRoutes& announced = {}) {
    check_cuda(cudaMemset(workspace_, poison, workspace_bytes_), "poison");
    check_cuda(cudaMemset(y_, poison, rows_.normed.size() * sizeof(float)), "poison");
    const __half* x = with_norm ? reinterpret_cast<const __half*>(nans_) : halves_;
    MoeCall call{x, layer().hidden, ids_, weights_, tokens, y_, layer().hidden};
    if (with_norm) call.norm = norm_;
    if (announced.units != nullptr) {
      call.ids = nonsense_;
      call.weights = nans_;
      call.announced = announced;
    }
    moe_swiglu(layer(), call, path, workspace_, nullptr);
    std::vector<float> values(static_cast<std::size_t>(tokens) * layer().hidden);
    check_cuda(cudaMemcpy(values.data(), y_, values.size() * sizeof(float), cudaMemcpyDeviceToHost), "y");
    return values;
  }

 private:
  Problem problem_;
  Random random_;
  Rows rows_;
  std::size_t workspace_bytes_;
  DeviceData device_;
  float* weights_ = nullptr;
  MoeNorm norm_;
  const __half* halves_ = nullptr;
  float *nans_ = nullptr, *y_ = nullptr;
  unsigned char* workspace_ = nullptr;
  int *ids_ = nullptr, *nonsense_ = nullptr;
  std::vector<int> ids_here_;
  std::vector<float> weights_here_;
  unsigned turn_here_ = 0;
};

// tokens: up to so many begin early.
void check_early(EarlyLayer& layer, const LayerShape& shape, int tokens, const std::vector<Use>& uses) {
  for (const Use use : uses) {
    layer.route(use);
    for (int t = 1; t <= tokens; ++t) {
      if (small_cases() && t > 1 && t < tokens) continue;
      if (single_runs() && t < tokens && use != uses.front()) continue;
      const std::string what = fmt::format("{}, {} tokens, use {}", shape.name, t, static_cast<int>(use));
      const std::vector<float> expected = layer.run(t, MoePath::kInt4, false, 0xFF);
      const std::vector<float> y = layer.run(t, MoePath::kIntStream, true, 0xFF);
      EXPECT_EQ(verify::compare(expected, y, shape.hidden, {.row_relative = 0.002}), "") << what;
      if (!single_runs()) {
        EXPECT_EQ(verify::compare_exact(y, layer.run(t, MoePath::kIntStream, true, 0x7F)), "") << what << ": two runs";
      }
      EXPECT_TRUE(moe_polls_routes(layer.layer(), t, MoePath::kIntStream)) << what;
      for (const bool with_norm : {true, false}) {
        const AnnouncedRoutes announced = layer.announce();
        const unsigned before = turn_of(announced);
        const std::vector<float> polled = layer.run(t, MoePath::kIntStream, with_norm, 0x7F, announced);
        EXPECT_EQ(turn_of(announced), before + 1) << what;
        if (with_norm) {
          EXPECT_EQ(verify::compare_exact(y, polled), "") << what << ": announced routes";
          layer.check_row(t, y, what);
        } else {
          EXPECT_EQ(verify::compare(expected, polled, shape.hidden, {.row_relative = 0.002}), "") << what;
        }
      }
    }
  }
}

void check_early(const LayerShape& shape, int n, float scale, int tokens, const std::vector<Use>& uses) {
  EarlyLayer layer(shape, n, scale);
  check_early(layer, shape, tokens, uses);
}

TEST(GpuMoeEarly, RoutedExpertsAlone) {
  check_early({"early, routed", 5, 0, 3, 256, 256, 0, kMul1, true, 71}, 256, 1.0f, 4, {Use::kAll, Use::kNone});
}

TEST(GpuMoeEarly, SharedExpert) {
  check_early({"early, shared", 6, 1, 2, 256, 256, 0, kMul1, true, 72}, 256, 1.0f, 4,
              {Use::kAll, Use::kSome, Use::kNone});
  check_early({"early, shared of 4 blocks", 3, 1, 1, 512, 128, 3, kMul1, true, 73}, 512, 1.0f, 1, {Use::kAll});
}

TEST(GpuMoeEarly, TwoSharedExperts) {
  check_early({"early, two shared", 4, 2, 2, 256, 384, 0, kMul1, true, 74}, 256, 1.0f, 4, {Use::kSome});
}

TEST(GpuMoeEarly, FiveBlocks) {
  check_early({"early, five blocks", 3, 1, 2, 640, 256, 2, kMul1, true, 75}, 640, 1.0f, 1, {Use::kAll});
}

// One token: shares of CTAs that end inside of a band and reach into the next one, with and without idle CTAs.
TEST(GpuMoeEarly, SharesAcrossBands) {
  const std::vector<Use> uses{Use::kAll, Use::kSome};
  check_early({"early, bands", 4, 0, 2, 640, 384, 0, kMul1, true, 81}, 640, 1.0f, 1, uses);
  check_early({"early, bands, 4 blocks", 3, 1, 2, 512, 256, 0, kMul1, true, 82}, 512, 1.0f, 1, uses);
#ifndef FAIRWAY_CUDA_EMULATED
  check_early({"early, bands, 16 blocks", 16, 1, 4, 2048, 768, 0, kMul1, true, 83}, 2048, 1.0f, 1, uses);
  check_early({"early, bands, 8 experts", 16, 0, 8, 2048, 768, 4, kMul1, true, 84}, 2048, 1.0f, 1, uses);
#endif
}

// One token: units of so many bits that the last ones of down lie where the first of gate and up were. A CTA has
// `units` of them, whatever the number of CTAs is; with 8 of them a warp has two columns of tiles of each.
void check_used_again(int units, int bits, int top_k, int shared) {
  int ctas = 0;
  check_cuda(cudaDeviceGetAttribute(&ctas, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
  const int blocks = ctas < 32 ? units : 16, bands = units * ctas / ((top_k + shared) * blocks);
  const LayerShape shape{fmt::format("early, {} units of {} bits", units, bits),
                         top_k + 2,
                         shared,
                         top_k,
                         128 * blocks,
                         128 * bands,
                         bits,
                         kMul1,
                         true,
                         static_cast<unsigned>(80 + units)};
  EarlyLayer layer(shape, shape.hidden, 1.0f);
  const OneTokenShare share = one_token_share(layer.layer());
  EXPECT_EQ(share.units > 0, gpu_features().clusters) << shape.name;
  if (share.units > 0) {
    EXPECT_EQ(share.units, units) << shape.name;
    EXPECT_EQ(share.columns, units == 8 ? 2 : 1) << shape.name;
    EXPECT_GT(share.reused, 0) << shape.name;
  }
  check_early(layer, shape, 1, {Use::kAll, Use::kSome});
}
TEST(GpuMoeEarly, MemoryOfWideUnitsIsUsedAgain) {
  check_used_again(5, 8, 3, 0);
  check_used_again(8, 6, 2, 1);
}

TEST(GpuMoeEarly, WithoutARouter) {
  check_early({"early, dense", 0, 1, 0, 256, 512, 4, kMul1, true, 76}, 256, 1.0f, 3, {Use::kAll});
}

// What halves could not hold in front of the norm, and rows that end before the hidden size.
TEST(GpuMoeEarly, LargeAndSmallRowsWithPadding) {
  check_early({"early, large", 4, 1, 2, 384, 128, 0, kMul1, true, 77}, 340, 1e6f, 2, {Use::kAll});
  check_early({"early, small", 4, 1, 2, 256, 128, 0, kMul1, true, 78}, 252, 1e-2f, 2, {Use::kAll});
}

// Where a launch cannot begin early it takes the rows behind the norm: more tokens, scales of each expert, other paths.
TEST(GpuMoeEarly, OthersTakeTheRowsBehindTheNorm) {
  EarlyLayer common({"early, not", 4, 1, 2, 256, 128, 0, kMul1, true, 79}, 256, 1.0f);
  EarlyLayer own({"early, separate suh", 4, 1, 2, 256, 128, 0, kMul1, false, 80}, 256, 1.0f);
  const auto has_nans = [](const std::vector<float>& y) {
    for (const float v : y) {
      if (v != v) return true;
    }
    return false;
  };
  const auto same_without_norm = [&](EarlyLayer& layer, int tokens, MoePath path) {
    const std::vector<float> y = layer.run(tokens, path, true, 0);
    return has_nans(y) || y != layer.run(tokens, path, false, 0);
  };
  EXPECT_TRUE(same_without_norm(common, 5, MoePath::kIntStream));
  EXPECT_TRUE(same_without_norm(common, 1, MoePath::kIntStream3));
  EXPECT_TRUE(same_without_norm(common, 1, MoePath::kHalf8));
  EXPECT_TRUE(same_without_norm(own, 1, MoePath::kIntStream));
  EXPECT_TRUE(common.polls_row(1));
  EXPECT_FALSE(common.polls_row(2));
  EXPECT_FALSE(own.polls_row(1));
  EXPECT_FALSE(moe_polls_routes(common.layer(), 5, MoePath::kIntStream));
  EXPECT_FALSE(moe_polls_routes(common.layer(), 1, MoePath::kIntStream3));
  EXPECT_FALSE(moe_polls_routes(own.layer(), 1, MoePath::kIntStream));
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
