// The inputs of a layer that matrices read, the matrices that read them, and what calibration tells about them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "formats/model_layout.h"
#include "kernels/common/matrix.h"
#include "model/model.h"
#include "model/weights.h"
#include "quantize/incoherence.h"
#include "quantize/moments.h"

namespace fairway::quantize {

// Which part of a layer a matrix is: matrices of one part of one layer share a measured sensitivity.
enum class SitePart { kQA, kQB, kKvA, kQ, kK, kV, kO, kGate, kUp, kDown, kHead };
const char* part_name(SitePart part);

struct SiteMatrix {
  formats::LinearSpec spec;
  SitePart part;
  const kernels::LinearWeights* weights;  // of the source model
};

// One input. Sites with the same scale_name share suh: all experts of a layer for gate and up.
struct InputSite {
  std::string name, scale_name;
  int layer = -1, expert = -1;
  std::vector<SiteMatrix> matrices;
  Moments moments;        // of the rows that reach the matrices, weighted
  std::int64_t rows = 0;  // calibration rows that were routed here
  bool borrowed = false;  // fewer than the stated minimum: rows of other experts were added
};

// Every matrix of the layer that is coded, by the input it reads, in file order; moments are empty but have their size.
std::vector<InputSite> layer_sites(const formats::ModelConfig& config, const model::LayerWeights& weights, int layer);

// The head, unless it is the embedding matrix. Empty or one site.
std::vector<InputSite> head_sites(const model::Model& model);

// A plain matrix of the source as floats, padded with zeros to multiples of 128. Error(kBadInput) naming the tensor for
// a value that is not finite.
PlainWeights load_plain(const SiteMatrix& matrix, const std::string& model_dir);

}  // namespace fairway::quantize
