// Conversion of stored floats, and the scales of fp8 matrices.
#include "formats/source_tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "fairway/error.h"
#include "formats/checkpoint_state.h"
#include "formats/tensor_values.h"

namespace fairway::formats {
namespace {

using ByteValues = std::array<float, 256>;

// What every byte stands for: a layer of fp8 experts is half a billion of them, and a look-up is cheaper than a call.
ByteValues byte_values(TensorType type) {
  std::array<std::uint8_t, 256> bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i);
  const TensorView all{.name = "", .type = type, .shape = {256}, .bytes = bytes};
  ByteValues values;
  for (std::size_t i = 0; i < bytes.size(); ++i) values[i] = float_at(all, i);
  return values;
}

const ByteValues& values_of(TensorType type) {
  static const ByteValues e4m3 = byte_values(TensorType::kF8E4M3), e5m2 = byte_values(TensorType::kF8E5M2);
  return type == TensorType::kF8E4M3 ? e4m3 : e5m2;
}

std::vector<std::string> scale_names(const std::string& name) {
  return {name + "_scale_inv", name + "_scale"};
}

}  // namespace

SourceTensor::SourceTensor(const Checkpoint& checkpoint, const std::string& name, Fp8Block block)
    : checkpoint_(&checkpoint), view_(&checkpoint.require(name)) {
  if (!is_plain_float(view_->type) && !is_fp8(view_->type)) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} is {}, expected F64, F32, F16, BF16, F8_E4M3 or F8_E5M2",
                                                     tensor_subject(checkpoint, *view_), describe(*view_)));
  }
  if (!view_->shape.empty()) columns_ = view_->shape.back();
  if (is_fp8(view_->type)) find_scales(block);
}

void SourceTensor::find_scales(Fp8Block block) {
  const TensorView* scale = nullptr;
  for (const std::string& name : scale_names(view_->name)) {
    if (scale == nullptr) scale = checkpoint_->find(name);
  }
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{} is {} and {}", tensor_subject(*checkpoint_, *view_), describe(*view_), what));
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
  scales_ = finite_floats(*checkpoint_, *scale);
}

std::int64_t SourceTensor::count() const {
  return std::ssize(view_->bytes) / tensor_type_bytes(view_->type);
}

std::int64_t SourceTensor::run_length(std::int64_t first) const {
  if (scales_.empty()) return count() - first;
  const std::int64_t column = first % columns_;
  return std::min(block_columns_ - column % block_columns_, columns_ - column);
}

float SourceTensor::scale_of(std::int64_t element) const {
  const std::int64_t row = element / columns_, column = element % columns_;
  return scales_[static_cast<std::size_t>(row / block_rows_ * scale_columns_ + column / block_columns_)];
}

void SourceTensor::read_run(std::int64_t first, std::span<float> values) const {
  if (scales_.empty()) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = float_at(*view_, static_cast<std::size_t>(first) + i);
    return;
  }
  const ByteValues& table = values_of(view_->type);
  const std::uint8_t* from = view_->bytes.data() + first;
  const float scale = scale_of(first);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = table[from[i]] * scale;
}

void SourceTensor::read(std::int64_t first, std::span<float> values) const {
  for (std::size_t done = 0; done < values.size();) {
    const std::int64_t at = first + static_cast<std::int64_t>(done);
    const std::span<float> run =
        values.subspan(done, std::min(values.size() - done, static_cast<std::size_t>(run_length(at))));
    read_run(at, run);
    const auto bad = std::find_if_not(run.begin(), run.end(), [](float value) { return std::isfinite(value); });
    if (bad != run.end()) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{} is {} at index {}, expected finite values", tensor_subject(*checkpoint_, *view_),
                              *bad, at + (bad - run.begin())));
    }
    done += run.size();
  }
}

}  // namespace fairway::formats
