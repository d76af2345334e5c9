// Single values of stored tensors as floats.
#pragma once

#include <cstddef>

#include "formats/safetensors.h"

namespace fairway::formats {

bool is_fp8(TensorType type);
bool is_plain_float(TensorType type);  // f64, f32, f16 or bf16: values that need no scale

// Element i of a tensor of a plain float type or of fp8, without its scale.
float float_at(const TensorView& tensor, std::size_t i);

}  // namespace fairway::formats
