// A plain tensor of a checkpoint as floats, whatever type it is stored in: the one place that reads fp8 and its scales.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"

namespace fairway::formats {

// A view of F64, F32, F16 or BF16, or of F8_E4M3 or F8_E5M2 with its scales: NAME_scale_inv or NAME_scale of shape
// [blocks of rows, blocks of columns], [rows], [rows, 1], [1] or []; value = stored value * scale, rounded to float.
class SourceTensor {
 public:
  // Error(kBadInput) if the tensor is missing or its scales do not fit, Error(kUnsupported) for another type. Scales
  // are read here, values are not.
  SourceTensor(const Checkpoint& checkpoint, const std::string& name, Fp8Block block = {});

  const TensorView& view() const { return *view_; }
  std::int64_t count() const;  // elements

  // Elements first, first + 1, ... in row-major order. Error(kBadInput) naming file, tensor and index unless finite.
  void read(std::int64_t first, std::span<float> values) const;

 private:
  void find_scales(Fp8Block block);
  // How many elements from `first` on have the scale that it has; all that follow if there are no scales.
  std::int64_t run_length(std::int64_t first) const;
  float scale_of(std::int64_t element) const;
  void read_run(std::int64_t first, std::span<float> values) const;

  const Checkpoint* checkpoint_;
  const TensorView* view_;
  std::vector<float> scales_;  // [scale_rows_][scale_columns_]; empty unless fp8
  std::int64_t columns_ = 1, scale_columns_ = 1, block_rows_ = 1, block_columns_ = 1;
};

}  // namespace fairway::formats
