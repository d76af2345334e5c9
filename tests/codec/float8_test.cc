// 8-bit floats: the values that the OCP definition of the formats lists.
#include "codec/float8.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fairway::codec {
namespace {

TEST(Float8, E4m3) {
  EXPECT_EQ(float_from_e4m3(0x00), 0.0f);
  EXPECT_TRUE(std::signbit(float_from_e4m3(0x80)));
  EXPECT_EQ(float_from_e4m3(0x01), std::ldexp(1.0f, -9));  // smallest subnormal
  EXPECT_EQ(float_from_e4m3(0x07), 7 * std::ldexp(1.0f, -9));
  EXPECT_EQ(float_from_e4m3(0x08), std::ldexp(1.0f, -6));  // smallest normal
  EXPECT_EQ(float_from_e4m3(0x38), 1.0f);
  EXPECT_EQ(float_from_e4m3(0xBC), -1.5f);
  EXPECT_EQ(float_from_e4m3(0x7E), 448.0f);
  EXPECT_TRUE(std::isnan(float_from_e4m3(0x7F)));
  EXPECT_TRUE(std::isnan(float_from_e4m3(0xFF)));
  for (int bits = 0; bits < 0x7E; ++bits) {
    EXPECT_LT(float_from_e4m3(static_cast<std::uint8_t>(bits)), float_from_e4m3(static_cast<std::uint8_t>(bits + 1)));
  }
}

TEST(Float8, E5m2) {
  EXPECT_EQ(float_from_e5m2(0x01), std::ldexp(1.0f, -16));
  EXPECT_EQ(float_from_e5m2(0x3C), 1.0f);
  EXPECT_EQ(float_from_e5m2(0xC2), -3.0f);
  EXPECT_EQ(float_from_e5m2(0x7B), 57344.0f);
  EXPECT_TRUE(std::isinf(float_from_e5m2(0x7C)));
  EXPECT_TRUE(std::isnan(float_from_e5m2(0x7D)));
}

}  // namespace
}  // namespace fairway::codec
