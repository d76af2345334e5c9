// The weights of a loaded model, as the forward pass reads them. Matrices point into the mapped checkpoint.
#pragma once

#include <optional>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "kernels/common/matrix.h"
#include "model/model.h"
#include "moe/layer.h"

namespace fairway::model {

struct MlaWeights {
  kernels::LinearWeights q_a, q_b;  // q_a is unused if q_lora_rank is 0; q_b is then q_proj
  std::vector<float> q_a_norm;      // [q_lora_rank]
  kernels::LinearWeights kv_a;      // [hidden -> kv_lora_rank + rope]
  std::vector<float> kv_a_norm;     // [kv_lora_rank]
  kernels::DenseMatrix kv_b;        // [heads * (nope + v), kv_lora_rank]
  kernels::LinearWeights o;         // [heads * v -> hidden]
};

struct GqaWeights {
  kernels::LinearWeights q, k, v, o;
  std::vector<float> q_norm, k_norm;  // [head_dim]
};

struct LayerWeights {
  std::vector<float> attention_input_norm, mlp_input_norm;  // [hidden]
  MlaWeights mla;                                           // the one that config.attention names is filled in
  GqaWeights gqa;
  moe::MoeLayerWeights mlp;
};

// A layer that somebody reads for himself, with what its fp8 matrices became.
struct SourceLayer {
  LayerWeights weights;  // may point into `widened`
  formats::WidenedMatrices widened;
};

struct Model::Weights {
  formats::ModelConfig config;
  formats::Checkpoint checkpoint;
  kernels::DenseMatrix embedding;    // [vocab, hidden]
  std::vector<LayerWeights> layers;  // empty in a source model
  std::vector<float> final_norm;     // [hidden]
  kernels::LinearWeights head;
  formats::WidenedMatrices widened;  // embedding and head, if they are fp8
};

// Elements of one position in one layer's cache.
std::int64_t cache_row_elems(const formats::ModelConfig& config);

}  // namespace fairway::model
