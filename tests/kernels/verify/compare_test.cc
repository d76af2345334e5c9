// The comparator itself: it must fail where a careless one passes.
#include "kernels/verify/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace fairway::verify {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::string compare1(float expected, float actual, Bound bound) {
  return compare(std::span(&expected, 1), std::span(&actual, 1), 1, bound);
}

TEST(Compare, AcceptsWhatIsWithinTheBound) {
  EXPECT_EQ(compare1(1.0f, 1.0f, {}), "");
  EXPECT_EQ(compare1(-1.0f, -1.05f, {.absolute = 0.1}), "");
  EXPECT_EQ(compare1(-100.0f, -101.0f, {.relative = 0.011}), "");
  EXPECT_EQ(compare({}, {}, 4, {}), "");
}

TEST(Compare, RejectsTwoNegativesThatDiffer) {
  EXPECT_NE(compare1(-1.0f, -5.0f, {.absolute = 0.1, .relative = 0.1}), "");
  EXPECT_NE(compare1(-5.0f, -1.0f, {.absolute = 0.1, .relative = 0.1}), "");
  EXPECT_NE(compare1(-1.0f, 1.0f, {.relative = 0.5}), "");
}

TEST(Compare, RejectsNanOnEitherSide) {
  const Bound huge{.absolute = 1e30, .relative = 1e30};
  EXPECT_NE(compare1(kNan, 1.0f, huge), "");
  EXPECT_NE(compare1(1.0f, kNan, huge), "");
  EXPECT_NE(compare1(kNan, kNan, huge), "");
  EXPECT_NE(compare1(1.0f, kNan, {.row_relative = 10}), "");
  EXPECT_NE(compare1(1.0f, 1.0f, {.absolute = std::nan("")}), "");
}

TEST(Compare, AcceptsInfinityOnlyIfBothAreTheSameOne) {
  const Bound huge{.absolute = 1e30, .relative = 1e30};
  EXPECT_EQ(compare1(kInf, kInf, {}), "");
  EXPECT_EQ(compare1(-kInf, -kInf, {.row_relative = 0}), "");
  EXPECT_NE(compare1(kInf, -kInf, huge), "");
  EXPECT_NE(compare1(kInf, 1.0f, huge), "");
  EXPECT_NE(compare1(1.0f, kInf, huge), "");
  EXPECT_NE(compare1(1.0f, -kInf, {.row_relative = 10}), "");
}

TEST(Compare, FindsOneWrongRowIn4096) {
  const std::vector<float> expected(4096 * 8, 1.0f);
  std::vector<float> actual = expected;
  for (std::size_t i = 0; i < 8; ++i) actual[3000 * 8 + i] = 0.0f;
  const std::string message = compare(expected, actual, 8, {.row_relative = 0.01});
  EXPECT_NE(message.find("row 3000"), std::string::npos) << message;
}

TEST(Compare, FindsOneWrongElement) {
  std::vector<float> expected(4096, 2.0f);
  std::vector<float> actual = expected;
  actual[1234] = 2.5f;
  const std::string message = compare(expected, actual, 64, {.absolute = 0.4});
  EXPECT_NE(message.find("row 19 column 18"), std::string::npos) << message;
  EXPECT_NE(message.find("1 of 4096"), std::string::npos) << message;
}

TEST(Compare, RowBoundIsNotDilutedByOtherRows) {
  std::vector<float> expected(64 * 4, 100.0f);
  for (std::size_t i = 0; i < 4; ++i) expected[i] = 1e-3f;
  std::vector<float> actual = expected;
  actual[2] = -1e-3f;
  EXPECT_NE(compare(expected, actual, 4, {.row_relative = 0.1}), "");
}

TEST(Compare, RowsBelowTheFloorAreComparedWithIt) {
  const std::vector<float> expected{3, 4, 0.03f, 0.04f};
  std::vector<float> actual = expected;
  actual[2] = 0.13f;
  EXPECT_NE(compare(expected, actual, 2, {.row_relative = 0.03}), "");
  EXPECT_EQ(compare(expected, actual, 2, {.row_relative = 0.03, .row_floor = 5}), "");
  EXPECT_NEAR(worst_row_error(expected, actual, 2, 5), 0.02, 1e-6);
  actual[0] = 3.2f;  // a row above the floor has no more freedom than before
  EXPECT_NE(compare(expected, actual, 2, {.row_relative = 0.03, .row_floor = 5}), "");
  EXPECT_NEAR(typical_row_norm(std::vector<float>{3, 4, 0, 0}, 2), std::sqrt(12.5), 1e-12);
}

TEST(Compare, RejectsShapesThatDoNotFit) {
  const std::vector<float> three(3, 1.0f), four(4, 1.0f);
  EXPECT_NE(compare(three, four, 1, {}), "");
  EXPECT_NE(compare(four, four, 3, {}), "");
  EXPECT_NE(compare(four, four, 0, {}), "");
}

TEST(Compare, WorstRowErrorIsThatOfTheWorstRow) {
  const std::vector<float> expected{3, 4, 0, 0, 6, 8};
  EXPECT_EQ(worst_row_error(expected, expected, 2), 0);
  EXPECT_NEAR(worst_row_error(expected, std::vector<float>{3, 4, 0, 0, 6, 9}, 2), 0.1, 1e-7);
  EXPECT_EQ(worst_row_error(expected, std::vector<float>{3, 4, 0, 1, 6, 8}, 2), kInf);
  EXPECT_EQ(worst_row_error(expected, std::vector<float>{kNan, 4, 0, 0, 6, 8}, 2), kInf);
  EXPECT_EQ(worst_row_error({}, {}, 2), 0);
}

TEST(CompareExact, IsBitForBit) {
  const std::vector<float> expected{0.0f, kNan, 1.0f};
  std::vector<float> actual = expected;
  EXPECT_EQ(compare_exact(expected, actual), "");
  actual[0] = -0.0f;
  EXPECT_NE(compare_exact(expected, actual), "");
  actual = expected;
  actual[2] = std::nextafter(1.0f, 2.0f);
  EXPECT_NE(compare_exact(expected, actual).find("first is 2"), std::string::npos);
  EXPECT_NE(compare_exact(expected, std::span(actual).first(2)), "");
}

}  // namespace
}  // namespace fairway::verify
