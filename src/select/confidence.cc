// Quantiles come from Boost.Math.
#include "select/confidence.h"

#include <fmt/format.h>

#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "fairway/error.h"

namespace fairway::select {

double student_t(double confidence, int degrees_of_freedom) {
  if (!(confidence > 0 && confidence < 1)) {
    throw Error(ErrorKind::kUsage, fmt::format("confidence {}, expected more than 0 and less than 1", confidence));
  }
  const boost::math::students_t distribution(degrees_of_freedom);
  return boost::math::quantile(boost::math::complement(distribution, (1 - confidence) / 2));
}

Interval confidence_interval(double mean, double variance, int n, double confidence) {
  const double half = student_t(confidence, n - 1) * std::sqrt(variance / n);
  return {mean - half, mean + half};
}

std::optional<Interval> confidence_interval(std::span<const double> samples, double confidence) {
  const auto n = static_cast<double>(samples.size());
  if (samples.size() < 2) {
    student_t(confidence, 1);  // checks the confidence all the same
    return std::nullopt;
  }
  const double mean = std::accumulate(samples.begin(), samples.end(), 0.0) / n;
  double squares = 0;
  for (const double x : samples) squares += (x - mean) * (x - mean);
  return confidence_interval(mean, squares / (n - 1), static_cast<int>(samples.size()), confidence);
}

}  // namespace fairway::select
