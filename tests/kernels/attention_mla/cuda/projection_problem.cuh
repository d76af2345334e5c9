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
  std::vector<signed char> weights;
  std::vector<float> scales, matrix;  // matrix: what the 8-bit form stands for
  DeviceArray<signed char> weights_device;
  DeviceArray<float> scales_device;

  Projection(const Shape& s, Random& random, float size)
      : shape(s),
        weights(static_cast<std::size_t>(s.heads) * (s.nope + s.v) * s.latent),
        scales(static_cast<std::size_t>(s.heads) * (s.nope + s.v)),
        weights_device(weights.size()),
        scales_device(scales.size()) {
    std::vector<float> exact(weights.size());
    for (float& v : exact) v = size * random.normal();
    const int rows = static_cast<int>(scales.size());
    quantize_rows_int8(exact.data(), rows, s.latent, weights.data(), scales.data());
    for (std::size_t i = 0; i < weights.size(); ++i) matrix.push_back(scales[i / s.latent] * weights[i]);
    weights_device.set(weights);
    scales_device.set(scales);
  }
  MlaUpProjection device() const {
    return {weights_device.get(), scales_device.get(), shape.heads, shape.nope, shape.v, shape.latent};
  }
  const float* row(int head, int row) const {
    return matrix.data() + (static_cast<std::size_t>(head) * (shape.nope + shape.v) + row) * shape.latent;
  }
};

}  // namespace fairway::kernels::cuda::check
