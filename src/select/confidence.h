// Confidence intervals of mean latencies by Student's t distribution.
#pragma once

#include <optional>
#include <span>

namespace fairway::select {

struct Interval {
  double low, high;
  bool below(const Interval& other) const { return high < other.low; }
};

// mean +- t((1 + confidence) / 2; n - 1) * s / sqrt(n), with the sample deviation s. Empty for fewer than two samples.
// Error(kUsage) unless 0 < confidence < 1.
std::optional<Interval> confidence_interval(std::span<const double> samples, double confidence);

// The interval of the mean without the floor(trim * n) smallest and as many largest samples, with the deviation of the
// winsorized ones (Yuen, Biometrika 61, 1974, p. 165, for one sample). 0 <= trim < 0.5; empty if fewer than two samples
// are left.
std::optional<Interval> trimmed_confidence_interval(std::span<const double> samples, double confidence, double trim);

// The untrimmed one from a mean and an (n - 1) variance. n >= 2.
Interval confidence_interval(double mean, double variance, int n, double confidence);

// The quantile of Student's t that an interval of that confidence has on both sides; degrees of freedom >= 1.
double student_t(double confidence, int degrees_of_freedom);

}  // namespace fairway::select
