// Quantiles come from Boost.Math.
#include "select/confidence.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>
#include <vector>

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

std::optional<Interval> trimmed_confidence_interval(std::span<const double> samples, double confidence, double trim) {
  if (!(trim >= 0 && trim < 0.5)) {
    throw Error(ErrorKind::kUsage, fmt::format("trim {}, expected 0 or more and less than 0.5", trim));
  }
  const auto cut = static_cast<std::size_t>(trim * static_cast<double>(samples.size()));
  const std::size_t left = samples.size() - 2 * cut;
  if (left < 2) return std::nullopt;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const double low = sorted[cut], high = sorted[cut + left - 1];
  double sum = 0, winsorized_sum = 0;
  for (const double x : sorted) winsorized_sum += std::clamp(x, low, high);
  for (std::size_t i = cut; i < cut + left; ++i) sum += sorted[i];
  const double winsorized_mean = winsorized_sum / static_cast<double>(sorted.size());
  double squares = 0;
  for (const double x : sorted) squares += std::pow(std::clamp(x, low, high) - winsorized_mean, 2);
  const auto h = static_cast<double>(left);
  // confidence_interval divides by n = h again.
  return confidence_interval(sum / h, squares / (h - 1), static_cast<int>(left), confidence);
}

}  // namespace fairway::select
