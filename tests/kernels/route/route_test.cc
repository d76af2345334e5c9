// Tests of the router: both kinds against values of the Hugging Face implementations, ties, and values that are no
// numbers.
#include "kernels/route/route.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/compare.h"

namespace fairway::kernels {
namespace {

using test::compare;

struct Routed {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

Routed run(const std::vector<float>& logits, const RouteParams& params) {
  const std::size_t m = logits.size() / static_cast<std::size_t>(params.experts);
  Routed r{std::vector<std::int32_t>(m * static_cast<std::size_t>(params.top_k), -1),
           std::vector<float>(m * static_cast<std::size_t>(params.top_k), NAN)};
  route(logits.data(), static_cast<int>(m), params, r.ids.data(), r.weights.data());
  return r;
}

// Three tokens, eight experts, top 3. Expected values: transformers 5.23, Glm4MoeLiteTopkRouter and Qwen3MoeTopKRouter
// with an identity weight, in fp32.
const std::vector<float> kLogits{-3.05f, -1.5f, -1.31f, -3.22f, -0.2f,  -1.22f, -1.96f, -3.22f,
                                 0.88f,  2.34f, 3.53f,  -0.19f, 0.28f,  -3.16f, -0.64f, -0.6f,
                                 -1.6f,  0.67f, 0.55f,  3.43f,  -0.11f, 1.82f,  -2.78f, 5.38f};
const std::vector<float> kBias{1.43f, -0.73f, 0.64f, -0.51f, 0.13f, -0.19f, 0.55f, 1.01f};
constexpr test::Bound kBound{.relative = 8 * 0x1p-24};

TEST(Route, SigmoidWithBiasAgreesWithHuggingFace) {
  const std::vector<std::int32_t> ids{0, 7, 2, 0, 2, 7, 7, 0, 2};
  const Routed normalized = run(kLogits, {RouteKind::kSigmoidBiasTopK, 8, 3, true, 1.8f, kBias.data()});
  EXPECT_EQ(normalized.ids, ids);
  EXPECT_EQ(compare(std::vector<float>{0.274855673f, 0.233536929f, 1.29160726f, 0.625907838f, 0.860312402f,
                                       0.313779771f, 0.996780813f, 0.168212384f, 0.635006726f},
                    normalized.weights, 3, kBound),
            "");
  const Routed plain = run(kLogits, {RouteKind::kSigmoidBiasTopK, 8, 3, false, 2.5f, kBias.data()});
  EXPECT_EQ(plain.ids, ids);
  EXPECT_EQ(compare(std::vector<float>{0.113043696f, 0.0960499644f, 0.531217158f, 1.76705551f, 2.42882371f,
                                       0.885859251f, 2.4885335f, 0.419954032f, 1.58533907f},
                    plain.weights, 3, kBound),
            "");
}

TEST(Route, SoftmaxAgreesWithHuggingFace) {
  const std::vector<std::int32_t> ids{4, 5, 2, 2, 1, 0, 7, 3, 5};
  const Routed normalized = run(kLogits, {RouteKind::kSoftmaxTopK, 8, 3, true, 1.0f, nullptr});
  EXPECT_EQ(normalized.ids, ids);
  EXPECT_EQ(compare(std::vector<float>{0.591662109f, 0.213350356f, 0.194987565f, 0.727340221f, 0.221272349f,
                                       0.051387459f, 0.854180396f, 0.121527724f, 0.0242918897f},
                    normalized.weights, 3, kBound),
            "");
  const Routed plain = run(kLogits, {RouteKind::kSoftmaxTopK, 8, 3, false, 1.0f, nullptr});
  EXPECT_EQ(plain.ids, ids);
  EXPECT_EQ(compare(std::vector<float>{0.436647356f, 0.157452822f, 0.143901065f, 0.679967284f, 0.206860498f,
                                       0.0480405055f, 0.838189065f, 0.11925257f, 0.0238371138f},
                    plain.weights, 3, kBound),
            "");
}

TEST(Route, TiesGoToTheLowerExpert) {
  for (const RouteKind kind : {RouteKind::kSoftmaxTopK, RouteKind::kSigmoidBiasTopK}) {
    const Routed r = run({1, 2, 1, 2, 1, 2}, {kind, 6, 4, true, 1.0f, nullptr});
    EXPECT_EQ(r.ids, (std::vector<std::int32_t>{1, 3, 5, 0}));
    EXPECT_EQ(r.weights[0], r.weights[2]);
  }
}

TEST(Route, AllExpertsCanBeChosen) {
  for (const RouteKind kind : {RouteKind::kSoftmaxTopK, RouteKind::kSigmoidBiasTopK}) {
    const Routed r = run({0.5f, -1, 3}, {kind, 3, 3, true, 1.0f, nullptr});
    EXPECT_EQ(r.ids, (std::vector<std::int32_t>{2, 0, 1}));
    EXPECT_NEAR(r.weights[0] + r.weights[1] + r.weights[2], 1.0, 1e-6);
  }
}

TEST(Route, NanLosesAndTheOthersKeepTheirWeights) {
  for (const RouteKind kind : {RouteKind::kSoftmaxTopK, RouteKind::kSigmoidBiasTopK}) {
    for (const bool normalize : {true, false}) {
      const Routed with = run({NAN, 2, NAN, 1, 0}, {kind, 5, 2, normalize, 1.0f, nullptr});
      const float low = -std::numeric_limits<float>::infinity();
      const Routed without = run({low, 2, low, 1, 0}, {kind, 5, 2, normalize, 1.0f, nullptr});
      EXPECT_EQ(with.ids, (std::vector<std::int32_t>{1, 3}));
      EXPECT_EQ(test::compare_exact(without.weights, with.weights), "");
    }
  }
}

// Extreme logits: no overflow, no NaN, ids stay valid.
TEST(Route, ExtremeLogits) {
  for (const RouteKind kind : {RouteKind::kSoftmaxTopK, RouteKind::kSigmoidBiasTopK}) {
    for (const std::vector<float>& logits :
         {std::vector<float>{1e30f, -1e30f, 0, 88}, {-1e30f, -1e30f, -1e30f, -1e30f}}) {
      const Routed r = run(logits, {kind, 4, 2, true, 1.0f, nullptr});
      for (const std::int32_t id : r.ids) EXPECT_TRUE(id >= 0 && id < 4);
      for (const float w : r.weights) EXPECT_TRUE(std::isfinite(w) && w >= 0);
    }
  }
  const Routed all_nan = run({NAN, NAN, NAN}, {RouteKind::kSoftmaxTopK, 3, 2, true, 1.0f, nullptr});
  EXPECT_EQ(all_nan.ids, (std::vector<std::int32_t>{0, 1}));
}

}  // namespace
}  // namespace fairway::kernels
