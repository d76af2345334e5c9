// Which tensors a model of a given configuration has, by Hugging Face name: the one list of names in the project.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "kernels/common/matrix.h"

namespace fairway::formats {

enum class LinearRole { kEmbedding, kAttention, kRouter, kDenseMlp, kSharedExpert, kExpert, kHead };
const char* linear_role_name(LinearRole role);  // "embedding", "attention", "router", "dense_mlp", ...

// A linear layer at module key `prefix`; its tensors are prefix.weight or prefix.trellis and so on.
struct LinearSpec {
  std::string prefix;
  int in = 0;
  int out = 0;
  LinearRole role = LinearRole::kAttention;
  int layer = -1;                 // -1: outside of the layers
  int expert = -1;                // routed experts only
  bool allow_padded_out = false;  // vocabulary
  bool dense_only = false;        // embedding, router, kv_b_proj: a trellis is an error
  bool bias = false;              // prefix.bias must exist
  bool optional = false;          // lm_head of a model with tied embeddings
};

// A small float vector such as a norm weight.
struct VectorSpec {
  std::string name;  // full tensor name
  int count = 0;
  int layer = -1;
};

// "model.layers.3."
std::string layer_prefix(int layer);

// Of one layer, in order of use; a routed expert's gate, up and down stand together, experts in order.
std::vector<LinearSpec> layer_linears(const ModelConfig& config, int layer);
std::vector<VectorSpec> layer_vectors(const ModelConfig& config, int layer);

// Of the whole model: embedding, layers in order, head; final norm last.
std::vector<LinearSpec> expected_linears(const ModelConfig& config);
std::vector<VectorSpec> expected_vectors(const ModelConfig& config);

// The same lists without building them, for callers that may stop early: `visit` returns false to stop.
void visit_linears(const ModelConfig& config, const std::function<bool(const LinearSpec&)>& visit);

// checkpoint.linear() for a row of the list, with its dense_only and bias rules enforced.
kernels::LinearWeights load_linear(const Checkpoint& checkpoint, const LinearSpec& spec,
                                   WidenedMatrices* widened = nullptr);

// Whether logits come from the embedding matrix: tied by the configuration, unless a trellis-coded lm_head is stored.
bool uses_tied_head(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace fairway::formats
