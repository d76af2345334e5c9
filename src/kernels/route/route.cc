// route: scores of all experts, then a partial selection that is exact and the same everywhere.
#include "kernels/route/route.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fairway::kernels {
namespace {

// Sum added by the reference code before it divides by the chosen weights.
constexpr float kSigmoidSumEpsilon = 1e-20f;

// Unnormalised weight of one expert: the softmax numerator, or the logistic function. In double.
double score_of(float logit, RouteKind kind, double max_logit) {
  if (kind == RouteKind::kSoftmaxTopK) return std::exp(static_cast<double>(logit) - max_logit);
  return 1.0 / (1.0 + std::exp(-static_cast<double>(logit)));
}

float max_of(const float* logits, int experts) {
  float best = -std::numeric_limits<float>::infinity();
  for (int e = 0; e < experts; ++e) best = logits[e] > best ? logits[e] : best;
  return std::isfinite(best) ? best : 0.0f;
}

// Keeps the list of the best so far sorted; a new one goes behind all that are at least as good (ties: lower expert).
struct TopList {
  std::int32_t* ids;
  float* keys;
  int size;
  int capacity;

  void offer(std::int32_t id, float key) {
    if (std::isnan(key)) key = -std::numeric_limits<float>::infinity();
    if (size == capacity && !(key > keys[size - 1])) return;
    int at = size < capacity ? size++ : size - 1;
    for (; at > 0 && key > keys[at - 1]; --at) {
      ids[at] = ids[at - 1];
      keys[at] = keys[at - 1];
    }
    ids[at] = id;
    keys[at] = key;
  }
};

void route_token(const float* logits, const RouteParams& params, std::int32_t* ids, float* weights) {
  const double max_logit = max_of(logits, params.experts);
  const bool softmax = params.kind == RouteKind::kSoftmaxTopK;
  double total = 0;
  TopList top{ids, weights, 0, params.top_k};  // `weights` holds the selection keys until the choice is made
  for (int e = 0; e < params.experts; ++e) {
    const double score = score_of(logits[e], params.kind, max_logit);
    if (!std::isnan(score)) total += score;
    // Softmax keeps the order of the logits, and comparing those avoids ties made by rounding.
    float key = softmax ? logits[e] : static_cast<float>(score);
    if (params.selection_bias != nullptr) key = (softmax ? static_cast<float>(score) : key) + params.selection_bias[e];
    top.offer(e, key);
  }
  float chosen_sum = softmax ? 0.0f : kSigmoidSumEpsilon;
  for (int k = 0; k < params.top_k; ++k) {
    const double score = score_of(logits[ids[k]], params.kind, max_logit);
    weights[k] = static_cast<float>(softmax ? score / total : score);
    if (std::isnan(weights[k])) weights[k] = 0.0f;
    chosen_sum += weights[k];
  }
  for (int k = 0; k < params.top_k; ++k) {
    if (params.normalize && chosen_sum > 0) weights[k] /= chosen_sum;
    weights[k] *= params.scaling_factor;
  }
}

}  // namespace

void route(const float* logits, int m, const RouteParams& params, std::int32_t* ids, float* weights) {
  for (std::int64_t token = 0; token < m; ++token) {
    route_token(logits + token * params.experts, params, ids + token * params.top_k, weights + token * params.top_k);
  }
}

}  // namespace fairway::kernels
