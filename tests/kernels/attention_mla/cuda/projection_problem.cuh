// A random kv_b_proj, on the host and on the device.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <vector>

#include "codec/half.h"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
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
  std::vector<float> matrix;  // exact halves
  DeviceArray<__half> weights;

  Projection(const Shape& s, Random& random, float size)
      : shape(s),
        matrix(random_halves(random, static_cast<std::size_t>(s.heads) * (s.nope + s.v) * s.latent, size)),
        weights(to_halves(matrix)) {}
  MlaUpProjection device() const { return {weights.get(), shape.heads, shape.nope, shape.v, shape.latent}; }
  const float* row(int head, int row) const {
    return matrix.data() + (static_cast<std::size_t>(head) * (shape.nope + shape.v) + row) * shape.latent;
  }
};

}  // namespace fairway::kernels::cuda::check
