// A copy of a layer's weights with some matrices replaced by floats.
#pragma once

#include <list>
#include <vector>

#include "model/weights.h"
#include "quantize/layer_sites.h"

namespace fairway::quantize {

class ChangedLayer {
 public:
  explicit ChangedLayer(const model::LayerWeights& original) : original_(original), weights_(original) {}

  // values: [out, in], padded; only the matrix's own inputs and outputs are taken.
  void replace(const SiteMatrix& matrix, const std::vector<float>& values);
  const model::LayerWeights& weights() const { return weights_; }

 private:
  const model::LayerWeights& original_;
  model::LayerWeights weights_;
  std::list<std::vector<float>> storage_;
};

// The matrix with other values, as a view of `storage`, which is filled in.
kernels::LinearWeights replaced(const SiteMatrix& matrix, const std::vector<float>& values,
                                std::vector<float>& storage);

}  // namespace fairway::quantize
