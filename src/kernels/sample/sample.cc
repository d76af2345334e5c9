// sample: penalty, temperature, filters and the draw.
#include "kernels/sample/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include <fmt/format.h>

#include "fairway/error.h"

namespace fairway::kernels {
namespace {

void check(const SampleParams& p) {
  const auto refuse = [](const char* name, double value, const char* expected) {
    throw Error(ErrorKind::kUsage, fmt::format("{} is {}, expected {}", name, value, expected));
  };
  if (!(p.temperature >= 0) || !std::isfinite(p.temperature)) refuse("temperature", p.temperature, ">= 0");
  if (p.top_k < 0) refuse("top_k", p.top_k, ">= 0 (0: off)");
  if (!(p.top_p > 0 && p.top_p <= 1)) refuse("top_p", p.top_p, "above 0 and at most 1");
  if (!(p.min_p >= 0 && p.min_p < 1)) refuse("min_p", p.min_p, "at least 0 and below 1");
  if (!(p.repetition_penalty > 0) || !std::isfinite(p.repetition_penalty)) {
    refuse("repetition_penalty", p.repetition_penalty, "> 0");
  }
}

// splitmix64 (Steele, Lea, Flood 2014): one step and its output.
std::uint64_t next_random(std::uint64_t& state) {
  state += 0x9E3779B97F4A7C15u;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Logits as the filters see them: NaN never wins.
void copy_clean(std::span<const float> logits, std::vector<float>& out) {
  out.assign(logits.begin(), logits.end());
  for (float& v : out) {
    if (std::isnan(v)) v = -std::numeric_limits<float>::infinity();
  }
}

void penalize(std::vector<float>& logits, std::span<const int> history, float penalty) {
  if (penalty == 1.0f) return;
  const std::unordered_set<int> seen(history.begin(), history.end());
  for (const int id : seen) {
    if (id < 0 || static_cast<std::size_t>(id) >= logits.size()) continue;
    float& v = logits[static_cast<std::size_t>(id)];
    v = v > 0 ? v / penalty : v * penalty;
  }
}

}  // namespace

Sampler::Sampler(SampleParams params, std::uint64_t seed) : params_(params), state_(seed) { check(params); }

int Sampler::sample(std::span<const float> logits, std::span<const int> history) {
  if (logits.empty()) throw Error(ErrorKind::kUsage, "sample: no logits");
  copy_clean(logits, scratch_);
  penalize(scratch_, history, params_.repetition_penalty);
  if (params_.temperature == 0) {
    return static_cast<int>(std::max_element(scratch_.begin(), scratch_.end()) - scratch_.begin());
  }

  const auto before = [this](int a, int b) {
    const float x = scratch_[static_cast<std::size_t>(a)];
    const float y = scratch_[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  order_.resize(scratch_.size());
  for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int>(i);
  const bool limited = params_.top_k > 0 && static_cast<std::size_t>(params_.top_k) < order_.size();
  const std::size_t kept = limited ? static_cast<std::size_t>(params_.top_k) : order_.size();
  std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept), order_.end(), before);
  order_.resize(kept);

  // Probabilities relative to the best; order_ falls, so each filter keeps a prefix. The best always stays.
  const double best = scratch_[static_cast<std::size_t>(order_[0])];
  if (!std::isfinite(best)) return order_[0];
  std::vector<double>& weights = weights_;
  weights.clear();
  double total = 0;
  for (const int id : order_) {
    weights.push_back(std::exp((scratch_[static_cast<std::size_t>(id)] - best) / params_.temperature));
    total += weights.back();
  }
  double kept_total = 0;
  std::size_t count = 0;
  for (; count < weights.size(); ++count) {
    if (count > 0 && (kept_total >= params_.top_p * total || weights[count] < params_.min_p)) break;
    kept_total += weights[count];
  }
  const double uniform = static_cast<double>(next_random(state_) >> 11) * 0x1p-53;  // [0, 1)
  double threshold = uniform * kept_total;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    threshold -= weights[i];
    if (threshold < 0) return order_[i];
  }
  return order_[count - 1];
}

}  // namespace fairway::kernels
