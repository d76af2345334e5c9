// The matrices of every layer by the configuration.
#include "model/random_model.h"

#include <cmath>
#include <random>

#include "codec/half.h"
#include "codec/packing.h"

namespace fairway::model {
namespace {

using codec::padded;
using kernels::BitTuple;
using kernels::DenseMatrix;
using kernels::DenseType;
using kernels::LinearWeights;
using kernels::TrellisMatrix;

}  // namespace

RandomModel::RandomModel(const formats::ModelConfig& config, const RandomWeights& weights)
    : config_(config), weights_(weights), codebook_rms_(codec::codebook_rms(weights.codebook)) {
  const int hidden = config_.hidden_size;
  embedding_ = {nullptr, DenseType::kBf16, hidden, config_.vocab_size, nullptr};
  layers_.reserve(static_cast<std::size_t>(config_.num_hidden_layers));
  for (int i = 0; i < config_.num_hidden_layers; ++i) layers_.push_back(layer(i));
  final_norm_ = ones(hidden);
  head_ = trellis(hidden, config_.vocab_size, weights_.head_bits);
}

HostModel RandomModel::host() const {
  return {&config_, embedding_, layers_, final_norm_, head_};
}

const float* RandomModel::scales(int size, float magnitude) {
  std::vector<float>& values = scales_[{size, magnitude}];
  if (values.empty()) {
    std::mt19937_64 random(weights_.seed + static_cast<std::uint64_t>(size));
    const float exact = codec::float_from_half(codec::half_from_float(magnitude));
    for (int i = 0; i < size; ++i) values.push_back(random() % 2 == 0 ? exact : -exact);
  }
  return values.data();
}

LinearWeights RandomModel::trellis(int in, int out, int bits) {
  const float magnitude = 1.0f / (std::sqrt(static_cast<float>(in)) * codebook_rms_);
  TrellisMatrix matrix;
  matrix.in = static_cast<int>(padded(in));
  matrix.out = static_cast<int>(padded(out));
  matrix.bits = bits;
  matrix.codebook = weights_.codebook;
  matrix.suh = scales(matrix.in, magnitude);
  matrix.svh = scales(matrix.out, 1.0f);
  return {in, out, matrix};
}

LinearWeights RandomModel::dense(int in, int out) {
  return {in, out, DenseMatrix{nullptr, DenseType::kF16, in, out, nullptr}};
}

kernels::ExpertWeights RandomModel::expert(int intermediate, const BitTuple& bits) {
  const int hidden = config_.hidden_size;
  return {trellis(hidden, intermediate, bits.gate), trellis(hidden, intermediate, bits.up),
          trellis(intermediate, hidden, bits.down)};
}

LayerWeights RandomModel::layer(int index) {
  const formats::ModelConfig& c = config_;
  const int bits = weights_.attention_bits;
  LayerWeights w;
  w.attention_input_norm = ones(c.hidden_size);
  w.mlp_input_norm = ones(c.hidden_size);
  if (c.attention == formats::AttentionKind::kMla) {
    const int q = c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
    if (c.q_lora_rank > 0) {
      w.mla.q_a = trellis(c.hidden_size, c.q_lora_rank, bits);
      w.mla.q_a_norm = ones(c.q_lora_rank);
    }
    w.mla.q_b = trellis(c.q_lora_rank > 0 ? c.q_lora_rank : c.hidden_size, q, bits);
    w.mla.kv_a = trellis(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, bits);
    w.mla.kv_a_norm = ones(c.kv_lora_rank);
    w.mla.kv_b = dense(c.kv_lora_rank, c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim)).dense();
    w.mla.o = trellis(c.num_attention_heads * c.v_head_dim, c.hidden_size, bits);
  } else {
    w.gqa.q = trellis(c.hidden_size, c.num_attention_heads * c.head_dim, bits);
    w.gqa.k = trellis(c.hidden_size, c.num_key_value_heads * c.head_dim, bits);
    w.gqa.v = trellis(c.hidden_size, c.num_key_value_heads * c.head_dim, bits);
    w.gqa.o = trellis(c.num_attention_heads * c.head_dim, c.hidden_size, bits);
    w.gqa.q_norm = w.gqa.k_norm = ones(c.head_dim);
  }
  const auto width = [](int b) { return static_cast<std::uint8_t>(b); };
  if (!c.layer_is_moe[static_cast<std::size_t>(index)]) {
    const std::uint8_t b = width(weights_.dense_bits);
    w.mlp.always_on.push_back(expert(c.intermediate_size, {b, b, b}));
    return w;
  }
  const bool sigmoid = c.router == formats::RouterKind::kSigmoid;
  w.mlp.router = dense(c.hidden_size, c.n_routed_experts);
  if (sigmoid) w.mlp.selection_bias.assign(static_cast<std::size_t>(c.n_routed_experts), 0.0f);
  w.mlp.route = {sigmoid ? kernels::RouteKind::kSigmoidBiasTopK : kernels::RouteKind::kSoftmaxTopK,
                 c.n_routed_experts,
                 c.num_experts_per_tok,
                 c.norm_topk_prob,
                 c.routed_scaling_factor,
                 nullptr};
  const auto& tuples = weights_.expert_bits;
  for (int e = 0; e < c.n_routed_experts; ++e) {
    w.mlp.experts.push_back(expert(c.moe_intermediate_size, tuples[static_cast<std::size_t>(e) % tuples.size()]));
  }
  if (c.n_shared_experts > 0) w.mlp.always_on.push_back(expert(c.shared_intermediate_size(), tuples.front()));
  return w;
}

}  // namespace fairway::model
