// kv_b_proj of all layers in 8 bits, a thread for each layer.
#pragma once

#include <functional>
#include <vector>

#include "formats/config.h"
#include "model/weights.h"

namespace fairway::model {

// What UpProjectionRounder::quantize() takes, and where on the device its results go.
struct RoundingJob {
  const MlaWeights* layer;
  const std::vector<float>* attention_input_norm;
  signed char* weights;  // [rows, latent]
  float* scales;         // [rows]
};

// Rounds and copies; returns when all of it is on the device. On as many threads as there are processors, each with a
// layer of its own: a layer's steps are too short to be shared. `meanwhile`, if given, is called after every layer of
// the calling thread and may throw. Throws what a thread threw first.
void round_up_projections(const formats::ModelConfig& config, const std::vector<RoundingJob>& jobs, int device,
                          const std::function<void()>& meanwhile);

}  // namespace fairway::model
