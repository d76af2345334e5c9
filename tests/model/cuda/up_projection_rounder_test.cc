// kv_b_proj in 8 bits beside the same from the definition of the latents' moments.
#include "model/cuda/up_projection_rounder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/attention_mla/cuda/quantize_rows.h"

namespace fairway::model {
namespace {

std::vector<float> random_values(std::mt19937& random, int count, float mean, float deviation) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

kernels::DenseMatrix dense(const std::vector<float>& values, int in, int out) {
  kernels::DenseMatrix matrix{};
  matrix.data = reinterpret_cast<const std::uint8_t*>(values.data());
  matrix.type = kernels::DenseType::kF32;
  matrix.in = in;
  matrix.out = out;
  return matrix;
}

TEST(UpProjectionRounder, RoundsForTheLatentsOfIndependentHiddenStates) {
  constexpr int kHidden = 96, kLatent = 64, kRope = 16, kRows = 150;
  std::mt19937 random(3);
  formats::ModelConfig config;
  config.hidden_size = kHidden;
  config.kv_lora_rank = kLatent;
  config.qk_rope_head_dim = kRope;
  const std::vector<float> a = random_values(random, (kLatent + kRope) * kHidden, 0, 0.1f);
  const std::vector<float> b = random_values(random, kRows * kLatent, 0, 0.1f);
  const std::vector<float> input_norm = random_values(random, kHidden, 1, 0.5f);
  MlaWeights w;
  w.kv_a.in = kHidden;
  w.kv_a.out = kLatent + kRope;
  w.kv_a.matrix = dense(a, kHidden, kLatent + kRope);
  w.kv_a_norm = random_values(random, kLatent, 1, 0.3f);
  w.kv_b = dense(b, kLatent, kRows);
  std::vector<signed char> weights(b.size()), expected(b.size()), nearest(b.size());
  std::vector<float> scales(kRows), expected_scales(kRows);
  UpProjectionRounder(config, 2).quantize(w, input_norm, weights.data(), scales.data());

  std::vector<double> moments(kLatent * kLatent, 0.0);
  for (int i = 0; i < kLatent; ++i) {
    for (int j = 0; j < kLatent; ++j) {
      double& moment = moments[static_cast<std::size_t>(i * kLatent + j)];
      for (int h = 0; h < kHidden; ++h) {
        moment += static_cast<double>(a[i * kHidden + h]) * a[j * kHidden + h] * input_norm[h] * input_norm[h];
      }
      moment *= static_cast<double>(w.kv_a_norm[i]) * w.kv_a_norm[j];
    }
  }
  kernels::quantize_rows_int8(b.data(), kRows, kLatent, nearest.data(), expected_scales.data());
  kernels::quantize_rows_int8(b.data(), kRows, kernels::RoundingFeedback(moments, kLatent), expected.data(),
                              expected_scales.data());
  EXPECT_EQ(scales, expected_scales);
  EXPECT_NE(weights, nearest);
  int differ = 0;  // where the moments' rounding decides, and what that moves on
  for (std::size_t i = 0; i < weights.size(); ++i) {
    differ += weights[i] != expected[i];
    EXPECT_LE(std::abs(weights[i] - expected[i]), 2) << i;
  }
  EXPECT_LE(differ, static_cast<int>(weights.size() / 100));
}

}  // namespace
}  // namespace fairway::model
