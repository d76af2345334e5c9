// Loading: every tensor of the architecture by name, checked against the configuration. Matrices stay mapped.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "fairway/error.h"
#include "formats/model_layout.h"
#include "model/host_model.h"
#include "model/model.h"
#include "model/weights.h"

namespace fairway::model {
namespace {

using formats::Checkpoint;
using formats::LinearSpec;
using formats::ModelConfig;
using formats::WidenedMatrices;
using kernels::LinearWeights;

// The tensors of one layer by their key inside it; names, sizes and checks come from the layout.
class LayerReader {
 public:
  LayerReader(const Checkpoint& checkpoint, const ModelConfig& config, int layer, WidenedMatrices* widened)
      : checkpoint_(checkpoint),
        widened_(widened),
        prefix_(formats::layer_prefix(layer)),
        linears_(formats::layer_linears(config, layer)),
        vectors_(formats::layer_vectors(config, layer)) {}

  LinearWeights linear(const std::string& key) {
    const std::string name = prefix_ + key;
    // Asked for mostly in the order of the list, which matters with hundreds of experts.
    for (std::size_t tried = 0; tried < linears_.size(); ++tried) {
      const LinearSpec& spec = linears_[next_++ % linears_.size()];
      if (spec.prefix == name) return formats::load_linear(checkpoint_, spec, widened_);
    }
    throw std::logic_error(name + " is not in the model's layout");
  }

  std::vector<float> vector(const std::string& key) const {
    const std::string name = prefix_ + key;
    for (const auto& spec : vectors_) {
      if (spec.name == name) return checkpoint_.read_vector(name, spec.count);
    }
    throw std::logic_error(name + " is not in the model's layout");
  }

  kernels::ExpertWeights expert(const std::string& key) {
    kernels::ExpertWeights expert{linear(key + "gate_proj"), linear(key + "up_proj"), linear(key + "down_proj")};
    if (expert.gate.is_trellis() != expert.up.is_trellis() || expert.gate.is_trellis() != expert.down.is_trellis()) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("{}: linear \"{}{}{{gate,up,down}}_proj\": some of the three are trellis-coded and some "
                              "are plain; they must be of one kind",
                              checkpoint_.directory().string(), prefix_, key));
    }
    return expert;
  }

 private:
  const Checkpoint& checkpoint_;
  WidenedMatrices* widened_;  // null: fp8 is an error
  std::string prefix_;
  std::vector<LinearSpec> linears_;
  std::vector<formats::VectorSpec> vectors_;
  std::size_t next_ = 0;
};

MlaWeights load_mla(LayerReader& layer, const ModelConfig& config) {
  MlaWeights w;
  if (config.q_lora_rank > 0) {
    w.q_a = layer.linear("self_attn.q_a_proj");
    w.q_a_norm = layer.vector("self_attn.q_a_layernorm.weight");
    w.q_b = layer.linear("self_attn.q_b_proj");
  } else {
    w.q_b = layer.linear("self_attn.q_proj");
  }
  w.kv_a = layer.linear("self_attn.kv_a_proj_with_mqa");
  w.kv_a_norm = layer.vector("self_attn.kv_a_layernorm.weight");
  w.kv_b = layer.linear("self_attn.kv_b_proj").dense();
  w.o = layer.linear("self_attn.o_proj");
  return w;
}

GqaWeights load_gqa(LayerReader& layer) {
  GqaWeights w;
  w.q = layer.linear("self_attn.q_proj");
  w.k = layer.linear("self_attn.k_proj");
  w.v = layer.linear("self_attn.v_proj");
  w.o = layer.linear("self_attn.o_proj");
  w.q_norm = layer.vector("self_attn.q_norm.weight");
  w.k_norm = layer.vector("self_attn.k_norm.weight");
  return w;
}

moe::MoeLayerWeights load_moe(LayerReader& layer, const ModelConfig& c) {
  moe::MoeLayerWeights w;
  const bool sigmoid = c.router == formats::RouterKind::kSigmoid;
  w.router = layer.linear("mlp.gate");
  if (sigmoid) w.selection_bias = layer.vector("mlp.gate.e_score_correction_bias");
  w.route = {sigmoid ? kernels::RouteKind::kSigmoidBiasTopK : kernels::RouteKind::kSoftmaxTopK,
             c.n_routed_experts,
             c.num_experts_per_tok,
             c.norm_topk_prob,
             c.routed_scaling_factor,
             nullptr};
  w.experts.reserve(static_cast<std::size_t>(c.n_routed_experts));
  for (int e = 0; e < c.n_routed_experts; ++e) w.experts.push_back(layer.expert(fmt::format("mlp.experts.{}.", e)));
  if (c.n_shared_experts > 0) w.always_on.push_back(layer.expert("mlp.shared_experts."));
  return w;
}

LayerWeights load_layer(const Checkpoint& checkpoint, const ModelConfig& config, int index, WidenedMatrices* widened) {
  LayerReader reader(checkpoint, config, index, widened);
  LayerWeights layer;
  layer.attention_input_norm = reader.vector("input_layernorm.weight");
  layer.mlp_input_norm = reader.vector("post_attention_layernorm.weight");
  if (config.attention == formats::AttentionKind::kMla) {
    layer.mla = load_mla(reader, config);
  } else {
    layer.gqa = load_gqa(reader);
  }
  if (config.layer_is_moe[static_cast<std::size_t>(index)]) {
    layer.mlp = load_moe(reader, config);
  } else {
    layer.mlp.always_on.push_back(reader.expert("mlp."));
  }
  layer.mlp.describe(config.hidden_size);
  return layer;
}

// The embedding first, the head last; the layers between them are left to load_layer.
void load_vocabulary(const Checkpoint& checkpoint, const ModelConfig& c, kernels::DenseMatrix& embedding,
                     LinearWeights& head, WidenedMatrices* widened) {
  LinearSpec spec{.prefix = "model.embed_tokens",
                  .in = c.hidden_size,
                  .out = c.vocab_size,
                  .role = formats::LinearRole::kEmbedding,
                  .allow_padded_out = true,
                  .dense_only = true};
  const LinearWeights table = formats::load_linear(checkpoint, spec, widened);
  embedding = table.dense();
  if (formats::uses_tied_head(c, checkpoint)) {
    head = table;
    return;
  }
  spec.prefix = "lm_head";
  spec.role = formats::LinearRole::kHead;
  spec.dense_only = false;
  head = formats::load_linear(checkpoint, spec, widened);
}

}  // namespace

Model::Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

const formats::ModelConfig& Model::config() const {
  return weights_->config;
}
const Checkpoint& Model::checkpoint() const {
  return weights_->checkpoint;
}

const LinearWeights& Model::head() const {
  return weights_->head;
}

HostModel Model::host_model() const {
  const Weights& w = *weights_;
  if (w.layers.empty()) throw std::logic_error("a source model has no layers at hand");
  return {&w.config, w.embedding, w.layers, w.final_norm, w.head};
}

int Model::moe_layer_count() const {
  const auto& is_moe = weights_->config.layer_is_moe;
  return static_cast<int>(std::count(is_moe.begin(), is_moe.end(), true));
}

const moe::MoeLayerWeights& Model::moe_layer(int index) const {
  for (std::size_t i = 0; i < weights_->layers.size(); ++i) {
    if (weights_->config.layer_is_moe[i] && index-- == 0) return weights_->layers[i].mlp;
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("there is no such layer with routed experts; the model has {}", moe_layer_count()));
}

Model Model::load(const std::filesystem::path& model_dir, const std::function<void(int, int)>& progress) {
  return open(model_dir, /*as_source=*/false, progress);
}

Model Model::load_source(const std::filesystem::path& model_dir, const std::function<void(int, int)>& progress) {
  return open(model_dir, /*as_source=*/true, progress);
}

Model Model::open(const std::filesystem::path& model_dir, bool as_source,
                  const std::function<void(int, int)>& progress) {
  ModelConfig config = formats::load_model_config(model_dir);
  Checkpoint checkpoint = Checkpoint::open(model_dir);

  Model model;
  model.weights_.reset(new Weights{std::move(config), std::move(checkpoint), {}, {}, {}, {}, {}});
  Weights& w = *model.weights_;
  w.widened.block = w.config.fp8_block;
  load_vocabulary(w.checkpoint, w.config, w.embedding, w.head, as_source ? &w.widened : nullptr);
  w.final_norm = w.checkpoint.read_vector("model.norm.weight", w.config.hidden_size);
  if (!as_source) w.layers.reserve(static_cast<std::size_t>(w.config.num_hidden_layers));
  WidenedMatrices checked{.block = w.config.fp8_block, .check_only = true, .values = {}};
  for (int i = 0; i < w.config.num_hidden_layers; ++i) {
    LayerWeights layer = load_layer(w.checkpoint, w.config, i, as_source ? &checked : nullptr);
    if (!as_source) w.layers.push_back(std::move(layer));
    if (progress) progress(i + 1, w.config.num_hidden_layers);
  }
  return model;
}

SourceLayer Model::read_layer(int index) const {
  const Weights& w = *weights_;
  if (index < 0 || index >= w.config.num_hidden_layers) {
    throw std::logic_error(fmt::format("no layer {} of {}", index, w.config.num_hidden_layers));
  }
  w.checkpoint.release();  // what the layers before it have mapped
  SourceLayer layer{.weights = {}, .widened = {.block = w.config.fp8_block, .check_only = false, .values = {}}};
  layer.weights = load_layer(w.checkpoint, w.config, index, &layer.widened);
  return layer;
}

}  // namespace fairway::model
