// Sensitivities of models that do not exist, for tests of what is computed from them.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>

#include "quantize/sensitivity.h"

namespace fairway::test {

using formats::LinearRole;
using quantize::LinearSensitivity;
using quantize::ModelSensitivity;

constexpr std::int64_t kBlockWeights = 128 * 128;

// `blocks` of 128 * 128 weights; loss falls by `fall` per bit from `loss` at one bit.
inline LinearSensitivity linear_of(const std::string& prefix, LinearRole role, int layer, int expert,
                                   std::int64_t blocks, double loss, double fall = 4) {
  LinearSensitivity linear{prefix, role, layer, expert, blocks * kBlockWeights, 64, {}};
  for (std::size_t k = 1; k < linear.loss.size(); ++k) linear.loss[k] = loss * std::pow(fall, 1 - static_cast<int>(k));
  return linear;
}

struct ModelShape {
  int layers = 2;
  int dense_layers = 0;  // leading, without experts
  int experts = 4;
  bool shared = true, attention = true, head = true;
  std::int64_t expert_blocks = 1, down_blocks = 1, attention_blocks = 3;
};

// Losses over four orders of magnitude; each falls by a factor of 2.5 to 5 per bit, not the same at every bit.
class RandomModel {
 public:
  RandomModel(const ModelShape& shape, std::uint64_t seed) : shape_(shape), random_(seed) {}

  ModelSensitivity make() {
    model_ = {.model = "random", .fixed_bytes = 1000, .linears = {}};
    for (int layer = 0; layer < shape_.layers; ++layer) add_layer(layer);
    if (shape_.head) add("lm_head", LinearRole::kHead, -1, -1, 5);
    return std::move(model_);
  }

 private:
  void add(const std::string& prefix, LinearRole role, int layer, int expert, std::int64_t blocks) {
    std::uniform_real_distribution<double> magnitude(-4, 0), fall(2.5, 5);
    LinearSensitivity linear = linear_of(prefix, role, layer, expert, blocks, 1);
    double loss = static_cast<double>(blocks) * std::pow(10.0, magnitude(random_));
    for (std::size_t k = 1; k < linear.loss.size(); ++k) {
      linear.loss[k] = loss;
      loss /= fall(random_);
    }
    model_.linears.push_back(linear);
  }

  void add_mlp(const std::string& module, LinearRole role, int layer, int expert) {
    add(module + ".gate_proj", role, layer, expert, shape_.expert_blocks);
    add(module + ".up_proj", role, layer, expert, shape_.expert_blocks);
    add(module + ".down_proj", role, layer, expert, shape_.down_blocks);
  }

  void add_layer(int layer) {
    const std::string stem = fmt::format("model.layers.{}.", layer);
    if (shape_.attention) {
      for (const char* leaf : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
        add(stem + "self_attn." + leaf, LinearRole::kAttention, layer, -1, shape_.attention_blocks);
      }
    }
    if (layer < shape_.dense_layers) return add_mlp(stem + "mlp", LinearRole::kDenseMlp, layer, -1);
    for (int e = 0; e < shape_.experts; ++e) {
      add_mlp(fmt::format("{}mlp.experts.{}", stem, e), LinearRole::kExpert, layer, e);
    }
    if (shape_.shared) add_mlp(stem + "mlp.shared_experts", LinearRole::kSharedExpert, layer, -1);
  }

  ModelShape shape_;
  std::mt19937_64 random_;
  ModelSensitivity model_;
};

inline ModelSensitivity random_sensitivity(const ModelShape& shape, std::uint64_t seed) {
  return RandomModel(shape, seed).make();
}

}  // namespace fairway::test
