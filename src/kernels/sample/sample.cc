// sample: penalty, temperature, filters and the draw.
#include "kernels/sample/sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_set>

#include "fairway/error.h"

namespace fairway::kernels {
namespace {

constexpr std::size_t kFirstPart = 256;  // candidates sorted at first for top-p; most nuclei are smaller

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

Sampler::Sampler(SampleParams params, std::uint64_t seed) : params_(params), state_(seed) {
  check(params);
}

int Sampler::sample(std::span<const float> logits, std::span<const int> history) {
  if (logits.empty()) throw Error(ErrorKind::kUsage, "sample: no logits");
  copy_clean(logits, scratch_);
  penalize(scratch_, history, params_.repetition_penalty);
  const int top = static_cast<int>(std::max_element(scratch_.begin(), scratch_.end()) - scratch_.begin());
  const double best = scratch_[static_cast<std::size_t>(top)];
  if (params_.temperature == 0 || !std::isfinite(best)) return top;

  order_.resize(scratch_.size());
  std::iota(order_.begin(), order_.end(), 0);
  const bool limited = params_.top_k > 0 && static_cast<std::size_t>(params_.top_k) < order_.size();
  if (limited) {
    sort_part(0, static_cast<std::size_t>(params_.top_k));
    order_.resize(static_cast<std::size_t>(params_.top_k));
  }
  const double kept_total = params_.top_p < 1 ? keep_top_p(best, limited) : keep_min_p(best);

  const double uniform = static_cast<double>(next_random(state_) >> 11) * 0x1p-53;  // [0, 1)
  double threshold = uniform * kept_total;
  for (std::size_t i = 0; i + 1 < weights_.size(); ++i) {
    threshold -= weights_[i];
    if (threshold < 0) return order_[i];
  }
  return order_[weights_.size() - 1];
}

double Sampler::relative_weight(int id, double best) const {
  return std::exp((scratch_[static_cast<std::size_t>(id)] - best) / params_.temperature);
}

void Sampler::sort_part(std::size_t begin, std::size_t end) {
  const auto before = [this](int a, int b) {
    const float x = scratch_[static_cast<std::size_t>(a)];
    const float y = scratch_[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  // Selection first: std::partial_sort would keep a heap of all ranks, which is slow for many.
  const auto first = order_.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto last = order_.begin() + static_cast<std::ptrdiff_t>(end);
  if (last != order_.end()) std::nth_element(first, last, order_.end(), before);
  std::sort(first, last, before);
}

// The nucleus is a prefix of the falling order, usually a short one, so the order is formed in growing parts.
double Sampler::keep_top_p(double best, bool sorted) {
  double total = 0;
  for (const int id : order_) total += relative_weight(id, best);
  weights_.clear();
  double kept = 0;
  std::size_t in_order = sorted ? order_.size() : 0;
  for (std::size_t i = 0; i < order_.size() && (i == 0 || kept < params_.top_p * total); ++i) {
    if (i == in_order) {
      in_order = std::min(order_.size(), std::max(kFirstPart, 4 * in_order));
      sort_part(i, in_order);
    }
    const double weight = relative_weight(order_[i], best);
    if (weight < params_.min_p) break;
    weights_.push_back(weight);
    kept += weight;
  }
  return kept;
}

// Needs no order: a candidate stays if its probability is at least min_p of the best one's. The best always does.
double Sampler::keep_min_p(double best) {
  weights_.clear();
  double kept = 0;
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const double weight = relative_weight(order_[i], best);
    if (weight < params_.min_p) continue;
    order_[weights_.size()] = order_[i];
    weights_.push_back(weight);
    kept += weight;
  }
  return kept;
}

}  // namespace fairway::kernels
