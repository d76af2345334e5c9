// route: router logits -> the chosen experts of every token and their weights.
#pragma once

#include <cstdint>

namespace fairway::kernels {

enum class RouteKind { kSoftmaxTopK, kSigmoidBiasTopK };

struct RouteParams {
  RouteKind kind;
  int experts;
  int top_k;
  bool normalize;               // divide the chosen weights by their sum (sigmoid: plus 1e-20, as Hugging Face does)
  float scaling_factor;         // multiplies the weights last
  const float* selection_bias;  // [experts] or null; added for the choice only, never to the weights
};

// logits: [m, experts]. ids, weights: [m, top_k], in order of falling selection score, ties to the lower expert.
// Softmax: probabilities over all experts, the top_k largest. Sigmoid: scores sigmoid(logit), chosen by score + bias.
// A NaN logit loses every comparison. Exact numerics class: one order for every backend.
void route(const float* logits, int m, const RouteParams& params, std::int32_t* ids, float* weights);

}  // namespace fairway::kernels
