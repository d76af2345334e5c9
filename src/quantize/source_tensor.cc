// Conversion of stored floats, and the scales of fp8 matrices.
#include "quantize/source_tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>

#include "codec/float8.h"
#include "codec/half.h"
#include "fairway/error.h"
#include "formats/json.h"
#include "formats/tensor_values.h"

namespace fairway::quantize {
namespace {

using formats::TensorType;
using formats::TensorView;

std::string subject(const formats::Checkpoint& checkpoint, const TensorView& tensor) {
  return fmt::format("{}: tensor \"{}\"", checkpoint.file_of(tensor).string(), formats::printable(tensor.name));
}

}  // namespace

SourceTensor::SourceTensor(const formats::Checkpoint& checkpoint, const std::string& name, Fp8Block block)
    : checkpoint_(&checkpoint), view_(&checkpoint.require(name)) {
  if (!formats::is_plain_float(view_->type) && !formats::is_fp8(view_->type)) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is {}, expected F64, F32, F16, BF16, F8_E4M3 or F8_E5M2",
                                                     subject(checkpoint, *view_), tensor_type_name(view_->type)));
  }
  if (!view_->shape.empty()) columns_ = view_->shape.back();
  if (formats::is_fp8(view_->type)) find_scales(block);
}

void SourceTensor::find_scales(Fp8Block block) {
  const TensorView* scale = nullptr;
  for (const std::string& name : scale_names(view_->name)) {
    if (scale == nullptr) scale = checkpoint_->find(name);
  }
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kBadInput, fmt::format("{} is {} of shape [{}] and {}", subject(*checkpoint_, *view_),
                                                  tensor_type_name(view_->type), fmt::join(view_->shape, ", "), what));
  };
  if (scale == nullptr) fail(fmt::format("has no scales: looked for {}", fmt::join(scale_names(view_->name), " and ")));
  if (view_->shape.size() != 2) fail("has scales, which only matrices can have");
  const std::int64_t rows = view_->shape[0];
  const std::vector<std::int64_t> by_block = {(rows + block.rows - 1) / block.rows,
                                              (columns_ + block.columns - 1) / block.columns};
  if (scale->shape.empty() || scale->shape == std::vector<std::int64_t>{1}) {
    block_rows_ = rows;
    block_columns_ = columns_;
  } else if (scale->shape == std::vector<std::int64_t>{rows} || scale->shape == std::vector<std::int64_t>{rows, 1}) {
    block_columns_ = columns_;
  } else if (scale->shape == by_block) {
    block_rows_ = block.rows;
    block_columns_ = block.columns;
    scale_columns_ = by_block[1];
  } else {
    fail(fmt::format("its scales \"{}\" have shape [{}], expected [{}] for blocks of {} x {}, [{}], or one value",
                     scale->name, fmt::join(scale->shape, ", "), fmt::join(by_block, ", "), block.rows, block.columns,
                     rows));
  }
  const SourceTensor values(*checkpoint_, scale->name);
  scales_.resize(static_cast<std::size_t>(values.count()));
  values.read(0, scales_);
}

std::int64_t SourceTensor::count() const {
  return std::ssize(view_->bytes) / tensor_type_bytes(view_->type);
}

float SourceTensor::scale_of(std::int64_t element) const {
  const std::int64_t row = element / columns_, column = element % columns_;
  return scales_[static_cast<std::size_t>(row / block_rows_ * scale_columns_ + column / block_columns_)];
}

void SourceTensor::read(std::int64_t first, std::span<float> values) const {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t at = first + static_cast<std::int64_t>(i);
    values[i] = formats::float_at(*view_, static_cast<std::size_t>(at));
    if (!scales_.empty()) values[i] *= scale_of(at);
    if (!std::isfinite(values[i])) {
      throw Error(ErrorKind::kBadInput, fmt::format("{} is {} at index {}, expected finite values",
                                                    subject(*checkpoint_, *view_), values[i], at));
    }
  }
}

}  // namespace fairway::quantize
