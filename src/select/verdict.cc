// Medians, and intervals of ratios.
#include "select/verdict.h"

#include <algorithm>
#include <cmath>

#include "select/confidence.h"

namespace fairway::select {
namespace {

constexpr std::size_t kLeastSamples = 3;
constexpr double kConfidence = 0.95;
constexpr double kLeastGain = 0.01;
constexpr double kTrim = 0.125;  // of the ratios, at either end

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::vector<std::vector<double>> level_rounds(std::span<const std::vector<double>> samples) {
  const std::size_t rounds = samples.front().size();
  std::vector<double> levels(rounds);
  for (std::size_t r = 0; r < rounds; ++r) {
    std::vector<double> in_round;
    for (const std::vector<double>& own : samples) {
      if (own.size() == rounds) in_round.push_back(own[r]);
    }
    levels[r] = median(std::move(in_round));
  }
  const double middle = median(levels);
  std::vector<std::vector<double>> levelled(samples.begin(), samples.end());
  for (std::vector<double>& own : levelled) {
    for (std::size_t r = 0; r < own.size(); ++r) own[r] *= middle / levels[r];
  }
  return levelled;
}

std::size_t fastest_beyond_doubt(std::span<const std::vector<double>> samples, const std::vector<bool>& may_win) {
  const auto levelled = level_rounds(samples);
  std::size_t best = 0;
  double least = median(levelled.front());
  const double fallback = least;
  for (std::size_t i = 1; i < samples.size(); ++i) {
    const double own = median(levelled[i]);
    if (!may_win[i] || samples[i].empty() || own >= least) continue;
    best = i;
    least = own;
  }
  if (best == 0 || samples[best].size() < kLeastSamples || least > fallback * (1 - kLeastGain)) return 0;
  std::vector<double> logs;
  for (std::size_t r = 0; r < samples[best].size(); ++r) {
    logs.push_back(std::log(samples[best][r] / samples.front()[r]));
  }
  const double confidence = 1 - (1 - kConfidence) / static_cast<double>(samples.size() - 1);
  const auto interval = trimmed_confidence_interval(logs, confidence, kTrim);
  return interval && interval->high < 0 ? best : 0;
}

}  // namespace fairway::select
