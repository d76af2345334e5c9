// The forward pass: embedding, layers with residuals, final norm, head; and what a token costs in weight bytes.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "fairway/error.h"
#include "kernels/dense_linear/dense_linear.h"
#include "model/attention_block.h"
#include "model/linear_apply.h"
#include "model/model.h"
#include "model/weights.h"

namespace fairway::model {
namespace {

using kernels::dense_type_bytes;
using kernels::DenseMatrix;
using kernels::LinearWeights;

constexpr int kLogitRowsPerCall = 256;  // bounds the scratch of the head's kernel for a long window
constexpr int kResidualRowsPerTask = 32;

void check_request(std::span<const int> ids, int cached, const formats::ModelConfig& config) {
  const std::int64_t total = static_cast<std::int64_t>(cached) + static_cast<std::int64_t>(ids.size());
  if (total > config.max_position_embeddings) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} new tokens after {} cached ones exceed max_position_embeddings {} of the model",
                            ids.size(), cached, config.max_position_embeddings));
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config.vocab_size) {
      throw Error(ErrorKind::kUsage, fmt::format("token {} has id {}, expected 0 .. {} (vocab_size {})", i, ids[i],
                                                 config.vocab_size - 1, config.vocab_size));
    }
  }
}

void add_rows(const float* delta, int m, int hidden, float* x, const Execution& exec) {
  for_row_blocks(exec.context.pool, m, kResidualRowsPerTask, [&](int begin, int end) {
    const std::int64_t last = static_cast<std::int64_t>(end) * hidden;
    for (std::int64_t i = static_cast<std::int64_t>(begin) * hidden; i < last; ++i) x[i] += delta[i];
  });
}

std::int64_t stored_bytes(const LinearWeights& weights) {
  if (!weights.is_trellis()) {
    const DenseMatrix& dense = weights.dense();
    const std::int64_t bias = dense.bias != nullptr ? weights.out : 0;
    return (static_cast<std::int64_t>(dense.in) * weights.out + bias) * dense_type_bytes(dense.type);
  }
  const kernels::TrellisMatrix& trellis = weights.trellis();
  const std::int64_t codes = static_cast<std::int64_t>(trellis.in) * trellis.out / 8 * trellis.bits;
  const std::int64_t halves = trellis.in + trellis.out + (trellis.bias != nullptr ? trellis.out : 0);
  return codes + 2 * halves;
}

std::int64_t stored_bytes(const kernels::ExpertWeights& expert) {
  return stored_bytes(expert.gate) + stored_bytes(expert.up) + stored_bytes(expert.down);
}

std::int64_t mlp_bytes_per_token(const moe::MoeLayerWeights& mlp) {
  std::int64_t total = 0;
  for (const auto& expert : mlp.always_on) total += stored_bytes(expert);
  if (mlp.experts.empty()) return total;
  std::int64_t routed = 0;
  for (const auto& expert : mlp.experts) routed += stored_bytes(expert);
  return total + stored_bytes(mlp.router) + routed * mlp.route.top_k / static_cast<std::int64_t>(mlp.experts.size());
}

}  // namespace

void Model::forward(std::span<const int> ids, KvCache& cache, const select::Policy& policy,
                    kernels::KernelContext& context, moe::Counters& counters, std::vector<float>& hidden,
                    MlaPath mla) const {
  const Weights& w = *weights_;
  const formats::ModelConfig& c = w.config;
  if (w.layers.empty()) throw std::logic_error("a source model has no layers at hand; it runs layer by layer");
  check_request(ids, cache.length_, c);
  const int m = static_cast<int>(ids.size());
  hidden.resize(static_cast<std::size_t>(m) * c.hidden_size);
  if (m == 0) return;
  float* x = hidden.data();
  embed(ids, x);
  for (int l = 0; l < c.num_hidden_layers; ++l) {
    forward_layer(l, w.layers[static_cast<std::size_t>(l)], x, m, cache, policy, context, counters, mla);
  }
  final_norm(x, m, policy, context, counters);
  cache.length_ += m;
}

void Model::embed(std::span<const int> ids, float* x) const {
  for (const int id : ids) {
    kernels::read_dense_row(weights_->embedding, id, x);
    x += weights_->config.hidden_size;
  }
}

void Model::forward_layer(int layer, const LayerWeights& weights, float* x, int m, KvCache& cache,
                          const select::Policy& policy, kernels::KernelContext& context, moe::Counters& counters,
                          MlaPath mla) const {
  const formats::ModelConfig& c = weights_->config;
  const Execution exec{policy, context, counters};
  cache.grow_room(cache.length_ + m);
  backend::Workspace::Scope scope(context.workspace);
  const std::size_t elems = static_cast<std::size_t>(m) * c.hidden_size;
  float* normed = context.workspace.alloc<float>(elems);
  norm_rows(x, c.hidden_size, weights.attention_input_norm.data(), c.rms_norm_eps, m, c.hidden_size, normed,
            c.hidden_size, exec);
  const CacheSlice slice{cache.layers_[static_cast<std::size_t>(layer)].data(), cache.row_elems_, cache.length_,
                         cache.rope_};
  {
    backend::Workspace::Scope attention_scope(context.workspace);
    float* attended = context.workspace.alloc<float>(elems);
    const moe::StageTimer timer(counters, moe::Stage::kAttentionBlock);
    if (c.attention == formats::AttentionKind::kMla) {
      mla_block(weights.mla, c, normed, m, slice, mla, attended, exec);
    } else {
      gqa_block(weights.gqa, c, normed, m, slice, attended, exec);
    }
    add_rows(attended, m, c.hidden_size, x, exec);
  }
  norm_rows(x, c.hidden_size, weights.mlp_input_norm.data(), c.rms_norm_eps, m, c.hidden_size, normed, c.hidden_size,
            exec);
  const moe::StageTimer timer(counters, moe::Stage::kExperts);
  moe::moe_forward(weights.mlp, normed, m, c.hidden_size, x, policy, context, cache.scratch_, counters);
  if (counters.layer_observer) counters.layer_observer(layer, x, m, c.hidden_size);
}

void Model::final_norm(float* x, int m, const select::Policy& policy, kernels::KernelContext& context,
                       moe::Counters& counters) const {
  const formats::ModelConfig& c = weights_->config;
  norm_rows(x, c.hidden_size, weights_->final_norm.data(), c.rms_norm_eps, m, c.hidden_size, x, c.hidden_size,
            {policy, context, counters});
}

void Model::logits(const float* hidden, int m, const select::Policy& policy, kernels::KernelContext& context,
                   moe::Counters& counters, float* logits) const {
  const moe::StageTimer timer(counters, moe::Stage::kHead);
  const Weights& w = *weights_;
  const std::int64_t width = w.config.hidden_size;
  const std::int64_t vocab = w.config.vocab_size;
  for (int begin = 0; begin < m; begin += kLogitRowsPerCall) {
    const int rows = std::min(kLogitRowsPerCall, m - begin);
    apply_linear(w.head, hidden + begin * width, width, rows, logits + begin * vocab, vocab,
                 {policy, context, counters});
  }
}

std::int64_t Model::weight_bytes_per_token() const {
  const Weights& w = *weights_;
  const formats::ModelConfig& c = w.config;
  std::int64_t total = stored_bytes(w.head) + c.hidden_size * dense_type_bytes(w.embedding.type);
  for (const LayerWeights& layer : w.layers) {
    if (c.attention == formats::AttentionKind::kMla) {
      if (c.q_lora_rank > 0) total += stored_bytes(layer.mla.q_a);
      total += stored_bytes(layer.mla.q_b) + stored_bytes(layer.mla.kv_a) + stored_bytes(layer.mla.o);
      total +=
          static_cast<std::int64_t>(layer.mla.kv_b.in) * layer.mla.kv_b.out * dense_type_bytes(layer.mla.kv_b.type);
    } else {
      total += stored_bytes(layer.gqa.q) + stored_bytes(layer.gqa.k) + stored_bytes(layer.gqa.v);
      total += stored_bytes(layer.gqa.o);
    }
    total += mlp_bytes_per_token(layer.mlp);
  }
  return total;
}

}  // namespace fairway::model
