// The kernels' exponential and SwiGLU against libm in double precision, on every instruction set.
#include "kernels/common/expf.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/trellis_band/simd_scalar.h"

namespace fairway::kernels {
namespace {

float exp_scalar(float x) {
  return exp_poly<scalar::Simd>(x);
}

TEST(ExpPoly, ErrorIsWithinTheStatedUlp) {
  double worst = 0;
  float worst_x = 0;
  // Every 1009th float of both signs (a prime step covers all low mantissa patterns) up to the ends of the normal
  // range.
  for (std::uint32_t sign : {0u, 0x80000000u}) {
    const float limit = sign ? 87.3f : 88.7f;
    for (std::uint32_t bits = 0; std::bit_cast<float>(bits) <= limit; bits += 1009) {
      const float x = std::bit_cast<float>(bits | sign);
      const double exact = std::exp(static_cast<double>(x));
      const float rounded = static_cast<float>(exact);
      const double ulp = static_cast<double>(std::nextafter(rounded, std::numeric_limits<float>::infinity())) - rounded;
      const double error = std::fabs(exp_scalar(x) - exact) / ulp;
      if (error > worst) worst = error, worst_x = x;
    }
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, kExpMaxUlp) << "at " << worst_x;
}

TEST(ExpPoly, SpecialValues) {
  EXPECT_EQ(exp_scalar(0.0f), 1.0f);
  EXPECT_EQ(exp_scalar(-0.0f), 1.0f);
  EXPECT_EQ(exp_scalar(1000.0f), std::numeric_limits<float>::infinity());
  EXPECT_EQ(exp_scalar(std::numeric_limits<float>::infinity()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(exp_scalar(-1000.0f), 0.0f);
  EXPECT_EQ(exp_scalar(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isnan(exp_scalar(std::numeric_limits<float>::quiet_NaN())));
  // Subnormal results: half of the smallest unit at most, plus the rounding of the polynomial.
  for (float x = -87.4f; x > -104.0f; x -= 0.37f)
    EXPECT_NEAR(exp_scalar(x), std::exp(static_cast<double>(x)), 1.5e-45 * 1.01) << x;
}

TEST(Swiglu, LargeGatesDoNotBecomeNan) {
  EXPECT_EQ(swiglu<scalar::Simd>(200.0f, 2.0f), 400.0f);
  EXPECT_EQ(swiglu<scalar::Simd>(-200.0f, 2.0f), 0.0f);
  EXPECT_EQ(swiglu<scalar::Simd>(0.0f, 3.0f), 0.0f);
}

}  // namespace
}  // namespace fairway::kernels
