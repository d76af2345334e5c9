// Quantiles of Student's t against the tables of statistics books, and what intervals are made of.
#include "select/confidence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "select/expect_error.h"

namespace fairway::select {
namespace {

using test::usage_error;
using testing::HasSubstr;

// Two-sided quantiles as textbooks print them, with three decimals.
TEST(Confidence, QuantilesAreThoseOfTheTables) {
  const struct {
    double confidence;
    int degrees;
    double t;
  } rows[] = {{0.95, 1, 12.706},  {0.95, 2, 4.303},  {0.95, 4, 2.776},   {0.95, 9, 2.262},  {0.95, 30, 2.042},
              {0.95, 120, 1.980}, {0.90, 5, 2.015},  {0.90, 10, 1.812},  {0.99, 1, 63.657}, {0.99, 5, 4.032},
              {0.99, 20, 2.845},  {0.999, 4, 8.610}, {0.999, 10, 4.587}, {0.50, 7, 0.711}};
  for (const auto& row : rows) {
    EXPECT_NEAR(student_t(row.confidence, row.degrees), row.t, 0.0006)
        << row.confidence << " with " << row.degrees << " degrees of freedom";
  }
  EXPECT_NEAR(student_t(0.95, 1000000), 1.959964, 1e-5);  // that of the normal distribution
}

TEST(Confidence, QuantilesOutsideTheirDomainAreErrors) {
  for (const double confidence : {0.0, 1.0, -0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(usage_error([&] { student_t(confidence, 3); }), HasSubstr("confidence"));
  }
}

TEST(Confidence, AnIntervalIsMeanAndTTimesTheStandardError) {
  // Mean 5, squares 32, so s^2 = 32 / 7 and s / sqrt(8) = 0.755929; t(0.975; 7) = 2.364624.
  const std::vector<double> samples{2, 4, 4, 4, 5, 5, 7, 9};
  const auto interval = confidence_interval(samples, 0.95);
  ASSERT_TRUE(interval.has_value());
  EXPECT_NEAR(interval->low, 5 - 1.787488, 1e-5);
  EXPECT_NEAR(interval->high, 5 + 1.787488, 1e-5);
  const Interval same = confidence_interval(5, 32.0 / 7, 8, 0.95);
  EXPECT_DOUBLE_EQ(same.low, interval->low);
  EXPECT_DOUBLE_EQ(same.high, interval->high);
}

TEST(Confidence, AnIntervalNeedsTwoSamplesButChecksItsConfidenceAnyway) {
  const std::vector<double> none, one{3.5}, two{3, 5};
  EXPECT_FALSE(confidence_interval(none, 0.95).has_value());
  EXPECT_FALSE(confidence_interval(one, 0.95).has_value());
  for (const auto* samples : {&none, &one, &two}) {
    usage_error([&] { confidence_interval(*samples, 1.0); });
  }
  const auto wide = confidence_interval(two, 0.95);
  ASSERT_TRUE(wide.has_value());
  EXPECT_NEAR(wide->high - wide->low, 2 * 12.7062, 1e-3);  // s / sqrt(2) = 1
}

TEST(Confidence, EqualSamplesHaveAnIntervalOfNoWidth) {
  const auto interval = confidence_interval(std::vector<double>(10, 0.25), 0.99);
  ASSERT_TRUE(interval.has_value());
  EXPECT_EQ(interval->low, 0.25);
  EXPECT_EQ(interval->high, 0.25);
}

// 1..8 and one stall at either end of the order: an eighth of ten is one.
TEST(Confidence, TrimmedIntervalsDoNotSeeTheExtremes) {
  const std::vector<double> calm{1, 2, 3, 4, 5, 6, 7, 8, 0.5, 9}, stalled{1, 2, 3, 4, 5, 6, 7, 8, -1e6, 1e6};
  const auto a = trimmed_confidence_interval(calm, 0.95, 0.125), b = trimmed_confidence_interval(stalled, 0.95, 0.125);
  ASSERT_TRUE(a && b);
  EXPECT_DOUBLE_EQ(a->low, b->low);
  EXPECT_DOUBLE_EQ(a->high, b->high);
  // Mean 4.5; winsorized 1 1 2 .. 7 8 8 with squares 66.5 around 4.5: t(7) sqrt(66.5 / (8 * 7)) = 2.36462 * 1.08972.
  EXPECT_NEAR(a->low, 4.5 - 2.57678, 1e-4);
  EXPECT_NEAR(a->high, 4.5 + 2.57678, 1e-4);
}

TEST(Confidence, TrimmingNothingIsThePlainInterval) {
  const std::vector<double> samples{3, 1, 4, 1, 5, 9, 2};
  const auto plain = confidence_interval(samples, 0.9), trimmed = trimmed_confidence_interval(samples, 0.9, 0.125);
  ASSERT_TRUE(plain && trimmed);
  EXPECT_NEAR(trimmed->low, plain->low, 1e-12);
  EXPECT_NEAR(trimmed->high, plain->high, 1e-12);
  EXPECT_FALSE(trimmed_confidence_interval(std::vector<double>{1}, 0.9, 0).has_value());
  usage_error([&] { trimmed_confidence_interval(samples, 0.9, 0.5); });
}

TEST(Confidence, OneIntervalIsBelowAnotherOnlyIfTheyAreApart) {
  EXPECT_TRUE((Interval{1, 2}.below(Interval{2.1, 3})));
  EXPECT_FALSE((Interval{1, 2}.below(Interval{2, 3})));
  EXPECT_FALSE((Interval{1, 2}.below(Interval{0, 0.5})));
}

// What the word promises: 95 of 100 intervals hold the mean they estimate. 4000 intervals: three standard deviations of
// a binomial share are 0.010.
TEST(Confidence, IntervalsHoldTheMeanAsOftenAsTheySay) {
  constexpr std::uint64_t kSeed = 7;
  std::mt19937_64 random(kSeed);
  std::normal_distribution<double> normal(10, 2);
  for (const double confidence : {0.8, 0.95}) {
    int held = 0;
    for (int trial = 0; trial < 4000; ++trial) {
      std::vector<double> samples(5);
      for (double& x : samples) x = normal(random);
      const auto interval = confidence_interval(samples, confidence);
      held += interval->low <= 10 && 10 <= interval->high;
    }
    EXPECT_NEAR(held / 4000.0, confidence, 3 * std::sqrt(confidence * (1 - confidence) / 4000)) << "seed " << kSeed;
  }
}

}  // namespace
}  // namespace fairway::select
