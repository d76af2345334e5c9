// Handles on a model directory that Python objects hold: they keep the mapped files alive.
#pragma once

#include <memory>
#include <string>

#include "formats/checkpoint.h"
#include "kernels/common/matrix.h"
#include "model/model.h"

namespace fairway::python {

// One trellis-coded matrix.
struct LinearHandle {
  std::shared_ptr<const formats::Checkpoint> checkpoint;
  std::string name;  // "model.layers.0.mlp.gate_proj"
  std::string file;
  kernels::LinearWeights weights;
};

// One layer with routed experts.
struct MoeHandle {
  std::shared_ptr<const model::Model> model;
  int layer = 0;                        // number in the model
  const moe::MoeLayerWeights* weights;  // of `model`

  int hidden() const { return model->config().hidden_size; }
};

}  // namespace fairway::python
