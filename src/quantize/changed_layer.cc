// A matrix is found in the copy by where it stands in the original.
#include "quantize/changed_layer.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>

#include "codec/packing.h"

namespace fairway::quantize {
namespace {

using kernels::LinearWeights;

// Applies visit(matrix of the original, matrix of the copy) until it returns true.
template <typename Visit>
bool visit_pairs(const model::LayerWeights& a, model::LayerWeights& b, Visit visit) {
  const auto expert = [&](const kernels::ExpertWeights& x, kernels::ExpertWeights& y) {
    return visit(x.gate, y.gate) || visit(x.up, y.up) || visit(x.down, y.down);
  };
  for (std::size_t e = 0; e < a.mlp.experts.size(); ++e) {
    if (expert(a.mlp.experts[e], b.mlp.experts[e])) return true;
  }
  for (std::size_t e = 0; e < a.mlp.always_on.size(); ++e) {
    if (expert(a.mlp.always_on[e], b.mlp.always_on[e])) return true;
  }
  return visit(a.mla.q_a, b.mla.q_a) || visit(a.mla.q_b, b.mla.q_b) || visit(a.mla.kv_a, b.mla.kv_a) ||
         visit(a.mla.o, b.mla.o) || visit(a.gqa.q, b.gqa.q) || visit(a.gqa.k, b.gqa.k) || visit(a.gqa.v, b.gqa.v) ||
         visit(a.gqa.o, b.gqa.o);
}

}  // namespace

LinearWeights replaced(const SiteMatrix& matrix, const std::vector<float>& values, std::vector<float>& storage) {
  LinearWeights changed = *matrix.weights;
  const std::size_t in = static_cast<std::size_t>(changed.in),
                    stride = static_cast<std::size_t>(codec::padded(changed.in));
  storage.resize(in * static_cast<std::size_t>(changed.out));
  for (std::size_t j = 0; j < static_cast<std::size_t>(changed.out); ++j) {
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(j * stride), in,
                storage.begin() + static_cast<std::ptrdiff_t>(j * in));
  }
  changed.matrix = kernels::DenseMatrix{reinterpret_cast<const std::uint8_t*>(storage.data()), kernels::DenseType::kF32,
                                        changed.in, changed.out, matrix.weights->dense().bias};
  return changed;
}

void ChangedLayer::replace(const SiteMatrix& matrix, const std::vector<float>& values) {
  const bool found = visit_pairs(original_, weights_, [&](const LinearWeights& own, LinearWeights& copy) {
    if (&own != matrix.weights) return false;
    copy = replaced(matrix, values, storage_.emplace_back());
    return true;
  });
  if (!found) throw std::logic_error(matrix.spec.prefix + " is not a matrix of this layer");
}

}  // namespace fairway::quantize
