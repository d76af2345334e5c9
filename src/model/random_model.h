// The shapes of a model without its data: matrices whose data is null, for whoever fills them with random numbers.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "formats/config.h"
#include "model/device_model.h"
#include "model/host_model.h"
#include "model/weights.h"

namespace fairway::model {

// Scales are +-1 with random signs; inputs also divide by the length of a column, so that inputs of variance 1 give
// outputs of variance 1. All gate and up matrices of a layer share their input scales, as a quantizer may choose.
class RandomModel {
 public:
  RandomModel(const formats::ModelConfig& config, const RandomWeights& weights);
  HostModel host() const;

 private:
  kernels::LinearWeights trellis(int in, int out, int bits);
  kernels::LinearWeights dense(int in, int out);
  kernels::ExpertWeights expert(int intermediate, const kernels::BitTuple& bits);
  LayerWeights layer(int index);
  const float* scales(int size, float magnitude);
  std::vector<float> ones(int count) const { return std::vector<float>(static_cast<std::size_t>(count), 1.0f); }

  formats::ModelConfig config_;
  RandomWeights weights_;
  float codebook_rms_;
  std::map<std::pair<int, float>, std::vector<float>> scales_;
  std::vector<LayerWeights> layers_;
  std::vector<float> final_norm_;
  kernels::DenseMatrix embedding_;
  kernels::LinearWeights head_;
};

}  // namespace fairway::model
