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

// The same from a mean and an (n - 1) variance. n >= 2.
Interval confidence_interval(double mean, double variance, int n, double confidence);

// The quantile of Student's t that an interval of that confidence has on both sides; degrees of freedom >= 1.
double student_t(double confidence, int degrees_of_freedom);

}  // namespace fairway::select
