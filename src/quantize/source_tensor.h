// A plain tensor of the model that is quantized, as floats, whatever type it is stored in.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"

namespace fairway::quantize {

// Weights that share one scale in an fp8 matrix, `weight_block_size` of its configuration.
struct Fp8Block {
  int rows = 128, columns = 128;
};

// A view of F64, F32, F16 or BF16, or of F8_E4M3 or F8_E5M2 with its scales: NAME_scale_inv or NAME_scale of shape
// [blocks of rows, blocks of columns], [rows], [rows, 1], [1] or []; value = stored value * scale.
class SourceTensor {
 public:
  // Error(kBadInput) if the tensor is missing or its scales do not fit, Error(kUnsupported) for another type.
  SourceTensor(const formats::Checkpoint& checkpoint, const std::string& name, Fp8Block block = {});

  const formats::TensorView& view() const { return *view_; }
  std::int64_t count() const;  // elements

  // Elements first, first + 1, ... in row-major order. Error(kBadInput) naming file, tensor and index unless finite.
  void read(std::int64_t first, std::span<float> values) const;

  // Names of the tensors that hold its scales: those that exist of NAME_scale_inv and NAME_scale.
  static std::vector<std::string> scale_names(const std::string& name) {
    return {name + "_scale_inv", name + "_scale"};
  }

 private:
  void find_scales(Fp8Block block);
  float scale_of(std::int64_t element) const;

  const formats::Checkpoint* checkpoint_;
  const formats::TensorView* view_;
  std::vector<float> scales_;  // [scale_rows_][scale_columns_]; empty unless fp8
  std::int64_t columns_ = 1, scale_columns_ = 1, block_rows_ = 1, block_columns_ = 1;
};

}  // namespace fairway::quantize
