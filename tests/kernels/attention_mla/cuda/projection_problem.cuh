// A random kv_b_proj, on the host and on the device.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <vector>

#include "codec/half.h"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/quantize_rows.h"
#include "kernels/common/cuda/device_array.cuh"
#include "kernels/moe_swiglu/cuda/problem.cuh"

namespace fairway::kernels::cuda::check {

struct Shape {
  const char* name;
  int heads, nope, rope, v, latent;
};
inline std::vector<__half> to_halves(const std::vector<float>& values) {
  std::vector<__half> halves;
  halves.reserve(values.size());
  for (const float v : values) halves.push_back(__half(__half_raw{codec::half_from_float(v)}));
  return halves;
}
inline std::vector<float> to_floats(const std::vector<__half>& values) {
  std::vector<float> floats;
  floats.reserve(values.size());
  for (const __half v : values) floats.push_back(codec::float_from_half(__half_as_ushort(v)));
  return floats;
}

// Values of a size, as halves hold them.
inline std::vector<float> random_halves(Random& random, std::size_t count, float size) {
  std::vector<float> values(count);
  for (float& v : values) v = codec::float_from_half(codec::half_from_float(size * random.normal()));
  return values;
}

struct Projection {
  Shape shape;
  UpWeight type;
  std::vector<float> matrix;  // what the stored form stands for
  DeviceArray<unsigned char> weights;
  DeviceArray<float> scales;

  Projection(const Shape& s, Random& random, float size, UpWeight stored = UpWeight::kHalf)
      : shape(s),
        type(stored),
        matrix(random_halves(random, static_cast<std::size_t>(s.heads) * (s.nope + s.v) * s.latent, size)),
        weights(matrix.size() * static_cast<std::size_t>(up_weight_bytes(stored))),
        scales(static_cast<std::size_t>(s.heads) * (s.nope + s.v)) {
    if (stored == UpWeight::kHalf) {
      const std::vector<__half> halves = to_halves(matrix);
      const auto* const bytes = reinterpret_cast<const unsigned char*>(halves.data());
      weights.set({bytes, bytes + 2 * halves.size()});
      return;
    }
    const std::size_t rows = static_cast<std::size_t>(s.heads) * (s.nope + s.v);
    std::vector<signed char> rounded(matrix.size());
    std::vector<float> of_rows(rows);
    quantize_rows_int8(matrix.data(), static_cast<int>(rows), s.latent, rounded.data(), of_rows.data());
    for (std::size_t i = 0; i < matrix.size(); ++i) matrix[i] = of_rows[i / s.latent] * rounded[i];
    weights.set({rounded.begin(), rounded.end()});
    scales.set(of_rows);
  }
  MlaUpProjection device() const {
    return {type,    weights.get(), type == UpWeight::kByte ? scales.get() : nullptr, shape.heads, shape.nope,
            shape.v, shape.latent};
  }
  const float* row(int head, int row) const {
    return matrix.data() + (static_cast<std::size_t>(head) * (shape.nope + shape.v) + row) * shape.latent;
  }
};

}  // namespace fairway::kernels::cuda::check
