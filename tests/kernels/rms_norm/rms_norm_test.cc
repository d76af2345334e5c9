// Tests of rms_norm against values of the Hugging Face implementation, in place, and with strides.
#include "kernels/rms_norm/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/compare.h"

namespace fairway::kernels {
namespace {

using test::compare;

// Glm4MoeLiteRMSNorm of transformers 5.23 in fp32, eps 1e-5. The second row is small enough for eps to matter.
const std::vector<float> kInput{1, -2, 3, 0.25f, 1e-3f, 0, 2e-3f, 0};
const std::vector<float> kWeight{1, 2, -1, 0.5f};
const std::vector<float> kExpected{0.533332586f, -2.13333035f, -1.59999776f,  0.0666665733f,
                                   0.298142403f, 0.0f,         -0.596284807f, 0.0f};
constexpr test::Bound kBound{.absolute = 0, .relative = 4 * 0x1p-24};

TEST(RmsNorm, AgreesWithHuggingFace) {
  std::vector<float> y(8, NAN);
  rms_norm(kInput.data(), 4, kWeight.data(), 1e-5f, 2, 4, y.data(), 4);
  EXPECT_EQ(compare(kExpected, y, 4, kBound), "");
}

TEST(RmsNorm, InPlace) {
  std::vector<float> x = kInput;
  rms_norm(x.data(), 4, kWeight.data(), 1e-5f, 2, 4, x.data(), 4);
  EXPECT_EQ(compare(kExpected, x, 4, kBound), "");
}

TEST(RmsNorm, StridesLeaveThePaddingAlone) {
  std::vector<float> x, y(2 * 7, -1.0f);
  for (int row = 0; row < 2; ++row) {
    x.insert(x.end(), kInput.begin() + row * 4, kInput.begin() + row * 4 + 4);
    x.insert(x.end(), 2, NAN);
  }
  rms_norm(x.data(), 6, kWeight.data(), 1e-5f, 2, 4, y.data(), 7);
  for (int row = 0; row < 2; ++row) {
    const std::vector<float> part(y.begin() + row * 7, y.begin() + row * 7 + 4);
    EXPECT_EQ(compare(std::span(kExpected).subspan(static_cast<std::size_t>(row) * 4, 4), part, 4, kBound), "");
    for (int i = 4; i < 7; ++i) EXPECT_EQ(y[static_cast<std::size_t>(row * 7 + i)], -1.0f);
  }
}

// Equal values give exactly the weight, at lengths that are no multiple of anything.
TEST(RmsNorm, LongRowsAndOddLengths) {
  for (const int n : {1, 2, 3, 5, 4097}) {
    std::vector<float> x(static_cast<std::size_t>(n), 3.0f), w(x.size(), 2.0f), y(x.size(), NAN);
    rms_norm(x.data(), n, w.data(), 0.0f, 1, n, y.data(), n);
    EXPECT_EQ(compare(std::vector<float>(x.size(), 2.0f), y, n, kBound), "") << n;
  }
}

// A row of huge values: the squares overflow fp32 and must not overflow here.
TEST(RmsNorm, LargeValues) {
  std::vector<float> x{3e30f, -3e30f}, w{1, 1}, y(2, NAN);
  rms_norm(x.data(), 2, w.data(), 1e-6f, 1, 2, y.data(), 2);
  EXPECT_EQ(compare(std::vector<float>{1, -1}, y, 2, kBound), "");
}

}  // namespace
}  // namespace fairway::kernels
