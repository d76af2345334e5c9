// Block operations: the scalar table against definitions, the vector tables against the scalar one bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backend/cpu/features.h"
#include "codec/hadamard.h"
#include "common/compare.h"
#include "kernels/trellis_band/trellis_band.h"
#include "kernels/trellis_band/trellis_fixture.h"

namespace fairway::kernels {
namespace {

struct NamedOps {
  const char* name;
  const BlockOps* ops;
};

std::vector<NamedOps> vector_tables() {
  std::vector<NamedOps> tables;
  const std::uint32_t features = backend::cpu_info().features;
  if (features & backend::kCpuAvx2) tables.push_back({"avx2", &kBlockOpsAvx2});
  if (features & backend::kCpuAvx512) tables.push_back({"avx512", &kBlockOpsAvx512});
  return tables;
}

class BlockOpsTest : public testing::Test {
 protected:
  static constexpr unsigned kSeed = 77;
  std::mt19937 random_{kSeed};
  std::vector<float> a_ = test::random_normal(random_, kBandWidth);
  std::vector<float> b_ = test::random_normal(random_, kBandWidth);
};

TEST_F(BlockOpsTest, HadamardHasTheBitsOfTheCodec) {
  std::vector<float> expected = a_;
  codec::hadamard128(expected.data());
  auto tables = vector_tables();
  tables.push_back({"ref", &kBlockOpsRef});
  for (const auto& [name, ops] : tables) {
    std::vector<float> actual = a_;
    ops->hadamard(actual.data());
    EXPECT_EQ(test::compare_exact(expected, actual), "") << name;
  }
}

TEST_F(BlockOpsTest, TransformInputExtendsWithZeros) {
  for (const int count : {0, 1, 7, 31, 100, 127, 128}) {
    std::vector<float> expected(kBandWidth, 0.0f);
    for (int i = 0; i < count; ++i)
      expected[static_cast<std::size_t>(i)] = a_[static_cast<std::size_t>(i)] * b_[static_cast<std::size_t>(i)];
    codec::hadamard128(expected.data());
    auto tables = vector_tables();
    tables.push_back({"ref", &kBlockOpsRef});
    // Exactly `count` readable elements: a read beyond faults.
    test::GuardedBytes x(static_cast<std::size_t>(count) * sizeof(float));
    if (count > 0) std::memcpy(x.data(), a_.data(), static_cast<std::size_t>(count) * sizeof(float));
    for (const auto& [name, ops] : tables) {
      std::vector<float> actual = test::poison(kBandWidth);
      ops->transform_input(reinterpret_cast<const float*>(x.data()), count, b_.data(), actual.data());
      // The sign of a zero is free: expected adds +0 where the kernel multiplies a padding zero with a negative scale.
      for (float& v : actual) v += 0.0f;
      EXPECT_EQ(test::compare(expected, actual, kBandWidth, {}), "") << name << " " << count;
    }
  }
}

TEST_F(BlockOpsTest, TransformOutputScalesAndAddsTheBias) {
  const std::vector<float> y = test::random_normal(random_, 3 * kBandWidth);
  for (const bool with_bias : {false, true}) {
    std::vector<float> expected = y;
    for (std::size_t r = 0; r < 3; ++r) {
      codec::hadamard128(&expected[r * kBandWidth]);
      for (std::size_t i = 0; i < kBandWidth; ++i) {
        float& v = expected[r * kBandWidth + i];
        v = v * a_[i];
        if (with_bias) v = v + b_[i];
      }
    }
    auto tables = vector_tables();
    tables.push_back({"ref", &kBlockOpsRef});
    for (const auto& [name, ops] : tables) {
      std::vector<float> actual = y;
      ops->transform_output(actual.data(), 3, a_.data(), with_bias ? b_.data() : nullptr);
      EXPECT_EQ(test::compare_exact(expected, actual), "") << name;
    }
  }
}

TEST_F(BlockOpsTest, SwigluAgreesWithItsDefinitionAndAcrossTables) {
  std::vector<float> gate = a_;
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= i % 3 == 0 ? 30.0f : 3.0f;
  for (const int count : {1, 64, 100, 128}) {
    std::vector<float> definition(kBandWidth, 0.0f);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      const double g = gate[i];
      definition[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * b_[i]);
    }
    std::vector<float> expected = test::poison(kBandWidth);
    kBlockOpsRef.swiglu(gate.data(), b_.data(), count, expected.data());
    // Rounding of exp (1 ulp), the sum, the quotient and the product: below 4 ulp together.
    EXPECT_EQ(
        test::compare(definition, expected, kBandWidth, {.absolute = 1e-37, .relative = 4 * std::ldexp(1.0, -23)}), "");
    for (const auto& [name, ops] : vector_tables()) {
      std::vector<float> actual = test::poison(kBandWidth);
      ops->swiglu(gate.data(), b_.data(), count, actual.data());
      EXPECT_EQ(test::compare_exact(expected, actual), "") << name << " " << count;
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
