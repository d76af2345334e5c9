// Keeping and comparing hidden states.
#include "engine/layer_trace.h"

#include <algorithm>

namespace fairway::engine {
namespace {

constexpr std::size_t kStateElems = 16 << 20;  // 64 MB: all rows of a chunk of small models, one in three of large ones

}  // namespace

LayerTrace::LayerTrace(int layers, int hidden)
    : layers_(static_cast<std::size_t>(layers)), hidden_(static_cast<std::size_t>(hidden)) {}

std::size_t LayerTrace::kept_rows(int m) const {
  return std::clamp<std::size_t>(kStateElems / (layers_ * hidden_), 1, static_cast<std::size_t>(m));
}

std::size_t LayerTrace::row_of(std::size_t kept, int m) const {
  return kept * static_cast<std::size_t>(m) / kept_rows(m);
}

void LayerTrace::keep(int layer, const float* x, int m) {
  const std::size_t rows = kept_rows(m);
  states_.resize(layers_ * rows * hidden_);
  float* out = states_.data() + static_cast<std::size_t>(layer) * rows * hidden_;
  for (std::size_t i = 0; i < rows; ++i) std::copy_n(x + row_of(i, m) * hidden_, hidden_, out + i * hidden_);
}

void LayerTrace::compare(int layer, const float* x, int m, double& difference, double& reference) const {
  const std::size_t rows = kept_rows(m);
  const float* kept = states_.data() + static_cast<std::size_t>(layer) * rows * hidden_;
  for (std::size_t i = 0; i < rows; ++i) {
    const float* row = x + row_of(i, m) * hidden_;
    for (std::size_t j = 0; j < hidden_; ++j) {
      const double a = static_cast<double>(kept[i * hidden_ + j]);
      const double d = static_cast<double>(row[j]) - a;
      difference += d * d;
      reference += a * a;
    }
  }
}

}  // namespace fairway::engine
