// One matrix: the transform there and back, coding with feedback against coding without, and what is predicted for it.
#include "quantize/code_linear.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>

#include "codec/half.h"
#include "codec/packing.h"
#include "kernels/verify/compare.h"
#include "quantize/code_profile.h"
#include "quantize/core_fixture.h"
#include "quantize/site_factor.h"

namespace fairway::quantize {
namespace {

constexpr int kIn = 256, kOut = 128;
constexpr double kNoDamping = 1e-6;

struct Problem {
  test::Machine machine;
  PlainWeights weights = test::random_weights("model.layers.0.mlp.up_proj", kIn, kOut, 1);
  Moments moments{kIn};
  InputScales scales;
  std::vector<double> h;
  BlockLdl ldl;

  explicit Problem(ScaleExponents exponents = {}, int threads = 2, double damping = 0.01) : machine(threads) {
    for (int j = 0; j < kOut; ++j) {
      for (int k = 0; k < kIn; ++k) weights.values[j * kIn + k] *= 1 + 0.02f * static_cast<float>((j + k) % 40);
    }
    const std::vector<float> x = test::correlated_rows(2048, kIn, 7);
    moments.add(x.data(), kIn, nullptr, nullptr, 2048, machine.context);
    InputPower power(kIn);
    power.add(weights);
    power.add(moments);
    scales = input_scales("model.layers.0.mlp.gate_up", 1, power, exponents);
    h = inner_hessian(moments, moments.weight(), scales, machine.context);
    ldl = block_ldl(h, kIn, damping, machine.context);
  }
};

std::vector<float> widen(const std::vector<std::uint16_t>& halves) {
  std::vector<float> values;
  values.reserve(halves.size());
  for (const std::uint16_t h : halves) values.push_back(codec::float_from_half(h));
  return values;
}

// The weights that a reader of the stored tensors sees, [out, in].
std::vector<float> decoded_weights(const QuantizedLinear& linear, kernels::KernelContext& context) {
  std::vector<float> inner(static_cast<std::size_t>(linear.in) * linear.out);
  const std::size_t columns = static_cast<std::size_t>(linear.out) / 16;
  for (std::size_t t = 0; t < linear.trellis.size() / codec::tile_bytes(linear.bits); ++t) {
    std::vector<std::uint16_t> words(static_cast<std::size_t>(codec::kWordsPerTilePerBit * linear.bits));
    std::memcpy(words.data(), &linear.trellis[t * codec::tile_bytes(linear.bits)], 2 * words.size());
    std::array<float, 256> tile;
    codec::decode_tile(words, linear.bits, linear.codebook, tile);
    for (std::size_t r = 0; r < 16; ++r) {
      for (std::size_t c = 0; c < 16; ++c) {
        inner[(t % columns * 16 + c) * static_cast<std::size_t>(linear.in) + t / columns * 16 + r] = tile[r * 16 + c];
      }
    }
  }
  return outer_weights(inner, linear.in, linear.out, widen(linear.suh), widen(linear.svh), context);
}

TEST(Incoherence, ThereAndBackIsTheSame) {
  Problem p;
  const std::vector<float> svh = output_scales(1, p.weights, p.scales, 0.96);
  const std::vector<float> inner = inner_weights(p.weights, p.scales, svh, p.machine.context);
  double squares = 0;
  for (const float x : inner) squares += static_cast<double>(x) * x;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(inner.size())), 0.96, 0.01);
  const std::vector<float> back = outer_weights(inner, kIn, kOut, p.scales.suh, svh, p.machine.context);
  for (std::size_t i = 0; i < back.size(); ++i) ASSERT_NEAR(back[i], p.weights.values[i], 1e-6) << i;
}

TEST(Incoherence, TheInnerHessianMeasuresTheSameError) {
  Problem p({0.7, 0.2});
  const std::vector<float> ones(kOut, 1.0f);
  std::vector<float> inner(static_cast<std::size_t>(kIn) * kOut), zero(inner.size());
  for (std::size_t i = 0; i < inner.size(); ++i) inner[i] = std::sin(static_cast<float>(i));
  const std::vector<float> outer = outer_weights(inner, kIn, kOut, p.scales.suh, ones, p.machine.context);
  double energy = 0;
  for (int j = 0; j < kOut; ++j) {
    for (int i = 0; i < kIn; ++i) {
      for (int k = 0; k < kIn; ++k) {
        energy += static_cast<double>(inner[j * kIn + i]) * p.h[i * kIn + k] * inner[j * kIn + k];
      }
    }
  }
  const double direct = test::weighted_error(outer, zero, p.moments);
  EXPECT_NEAR(energy, direct, 1e-4 * direct);
}

TEST(Incoherence, AnOutputOfZerosStaysZeroAndPaddingGetsAScale) {
  Problem p;
  for (int k = 0; k < kIn; ++k) p.weights.values[5 * kIn + k] = 0;
  const std::vector<float> svh = output_scales(1, p.weights, p.scales, 1);
  EXPECT_EQ(svh[5], 0);
  for (std::size_t j = 0; j < svh.size(); ++j) EXPECT_TRUE(j == 5 || std::abs(svh[j]) > 0) << j;
  InputPower power(kIn);  // nothing is known of any input
  for (const float s : input_scales("x", 1, power, {}).suh) EXPECT_NE(s, 0);
}

TEST(CodeLinear, ReportsTheErrorOfWhatIsStored) {
  for (const int bits : {1, 2, 3, 5, 8}) {
    Problem p;
    TileCoders coders(codec::Codebook::kMul1, 2);
    const CodedLinear coded = code_linear(p.weights, p.scales, p.moments, p.ldl, bits, 1, coders, p.machine.context);
    const std::vector<float> stored = decoded_weights(coded.linear, p.machine.context);
    const double error = test::weighted_error(stored, p.weights.values, p.moments);
    // Reported as the small difference of sums as large as the outputs, in floats.
    const std::vector<float> zero(stored.size());
    const double power = test::weighted_error(zero, p.weights.values, p.moments);
    EXPECT_NEAR(coded.facts.error, error, 1e-3 * error + 1e-7 * power) << bits;
    EXPECT_NEAR(coded.facts.relative, error / power, 1e-3 * coded.facts.relative + 1e-7) << bits;
  }
}

// The prediction that widths are chosen by: the unit error times the code's error on Gaussian weights. Damping is part
// of what is predicted and not of what is measured, so there is next to none here. Feedback makes weights larger than
// Gaussian ones of their scale, the more the stronger inputs are correlated.
TEST(CodeLinear, ErrorIsWhatIsPredicted) {
  for (const codec::Codebook codebook : {codec::Codebook::kMul1, codec::Codebook::kMcg, codec::Codebook::k3inst}) {
    for (const int bits : {2, 3, 4, 6}) {
      Problem p({}, 2, kNoDamping);
      TileCoders coders(codebook, 2);
      const CodedLinear coded = code_linear(p.weights, p.scales, p.moments, p.ldl, bits, 1, coders, p.machine.context);
      const double predicted = unit_error(p.ldl, p.weights, p.scales, 1) * code_profile(codebook, bits).mse;
      EXPECT_GT(coded.facts.error, 0.85 * predicted) << codec::codebook_name(codebook) << " " << bits;
      EXPECT_LT(coded.facts.error, 1.20 * predicted) << codec::codebook_name(codebook) << " " << bits;
    }
  }
}

TEST(CodeLinear, FeedbackPaysOnCorrelatedInputs) {
  Problem p;
  BlockLdl none = p.ldl;
  std::fill(none.lower.begin(), none.lower.end(), 0.0f);
  TileCoders coders(codec::Codebook::kMul1, 2);
  const auto error = [&](const BlockLdl& ldl) {
    return code_linear(p.weights, p.scales, p.moments, ldl, 3, 1, coders, p.machine.context).facts.error;
  };
  EXPECT_LT(error(p.ldl), 0.8 * error(none));
}

TEST(CodeLinear, ThreadsDoNotChangeABit) {
  const auto bytes = [](int threads) {
    Problem p({}, threads);
    TileCoders coders(codec::Codebook::kMul1, threads);
    return code_linear(p.weights, p.scales, p.moments, p.ldl, 3, 1, coders, p.machine.context).linear;
  };
  const QuantizedLinear one = bytes(1), three = bytes(3);
  EXPECT_EQ(one.trellis, three.trellis);
  EXPECT_EQ(one.suh, three.suh);
  EXPECT_EQ(one.svh, three.svh);
}

TEST(Ldlq, NoiseHasThePredictedError) {
  Problem p({}, 2, kNoDamping);
  const std::vector<float> svh = output_scales(1, p.weights, p.scales, 1);
  const std::vector<float> inner = inner_weights(p.weights, p.scales, svh, p.machine.context);
  const std::vector<float> noisy = ldlq_noise(inner, kIn, kOut, p.ldl, 0.1, 3, p.machine.context);
  const std::vector<float> outer = outer_weights(noisy, kIn, kOut, p.scales.suh, svh, p.machine.context);
  const double predicted = 0.01 * unit_error(p.ldl, p.weights, p.scales, 1);
  const double error = test::weighted_error(outer, p.weights.values, p.moments);
  EXPECT_NEAR(error, predicted, 0.08 * predicted);
}

}  // namespace
}  // namespace fairway::quantize
