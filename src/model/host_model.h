// A model in host memory as other devices copy it.
#pragma once

#include <span>

#include "formats/config.h"
#include "kernels/common/matrix.h"
#include "model/weights.h"

namespace fairway::model {

// Points into whoever made it. Matrices with null data are to be filled with random numbers.
struct HostModel {
  const formats::ModelConfig* config = nullptr;
  kernels::DenseMatrix embedding;
  std::span<const LayerWeights> layers;
  std::span<const float> final_norm;
  kernels::LinearWeights head;
};

}  // namespace fairway::model
