// Shapes as text, and the choice.
#include "model/cuda/device_paths.cuh"

#include <fmt/format.h>

#include "codec/trellis.h"

namespace fairway::model {

using kernels::CudaRow;
using kernels::cuda::LinearCall;
using kernels::cuda::LinearPath;
using kernels::cuda::MoeLayer;
using kernels::cuda::MoePath;

namespace {

std::span<const CudaRow> expert_rows() {
  static const std::span<const CudaRow> rows = kernels::cuda_rows_of("moe_swiglu");
  return rows;
}
std::span<const CudaRow> linear_rows() {
  static const std::span<const CudaRow> rows = kernels::cuda_rows_of("trellis_linear");
  return rows;
}

}  // namespace

std::string shape_of(const MoeLayer& layer) {
  return fmt::format("{} of {} experts and {} shared, {} x {}, {} bits at most, {}, {}", layer.top_k, layer.routed,
                     layer.shared, layer.hidden, layer.max_intermediate, layer.widths.largest(),
                     layer.all_mul1 ? "mul1" : "other codebooks",
                     layer.common_suh != nullptr ? "one input scale" : "input scales of each");
}

std::string shape_of(const LinearCall& call) {
  std::string text = std::to_string(call.in);
  for (int i = 0; i < call.count; ++i) {
    const auto& output = call.outputs[i];
    text += fmt::format("{} {} at {} bits", i == 0 ? " ->" : ",", output.out, output.matrix.bits);
  }
  return text + (call.all_mul1 ? ", mul1" : ", other codebooks");
}

const CudaRow& row_of(MoePath path) {
  return expert_rows()[static_cast<std::size_t>(path)];
}
const CudaRow& row_of(LinearPath path) {
  return linear_rows()[static_cast<std::size_t>(path)];
}

template <class Call, class Legal>
const CudaRow& DevicePaths::row_for(const Call& call, int rows, const CudaRow& rule, const Legal& legal) const {
  if (!table_ && choices_.empty()) return rule;
  const std::string shape = shape_of(call);
  const auto chosen = choices_.find(shape);
  if (chosen != choices_.end()) return *chosen->second;
  const PathEntry* entry = table_ ? table_->find(rule.op, shape, rows) : nullptr;
  if (entry == nullptr || !legal(*entry->row)) return rule;
  return entry->rows == rows || entry->default_row == &rule ? *entry->row : rule;
}

MoePath DevicePaths::choose(const MoeLayer& layer, int rows) {
  const CudaRow*& known = known_[Key(layer.experts, rows)];
  if (known == nullptr) {
    known = &row_for(layer, rows, row_of(kernels::cuda::moe_default_path(layer, rows)),
                     [&](const CudaRow& row) { return kernels::cuda::moe_path_legal(layer, path_of<MoePath>(row)); });
  }
  ++calls_[known->id];
  return path_of<MoePath>(*known);
}

LinearPath DevicePaths::choose(const LinearCall& call) {
  const CudaRow*& known = known_[Key(call.outputs[0].matrix.words, call.rows)];
  if (known == nullptr) {
    known = &row_for(call, call.rows, row_of(kernels::cuda::linear_default_path(call)), [&](const CudaRow& row) {
      return kernels::cuda::linear_path_legal(call, path_of<LinearPath>(row));
    });
  }
  ++calls_[known->id];
  return path_of<LinearPath>(*known);
}

}  // namespace fairway::model
