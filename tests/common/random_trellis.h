// A random trellis-coded matrix and the same matrix as plain floats, formed by the scalar codec.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/trellis.h"
#include "kernels/common/matrix.h"

namespace fairway::test {

// splitmix64 with float helpers: the same numbers on every platform, unlike <random>'s distributions.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  float uniform(float low, float high);
  float normal();  // mean 0, variance 1 (sum of twelve uniforms)
  std::vector<float> normals(std::size_t count, float scale = 1.0f);

 private:
  std::uint64_t state_;
};

// Exact size in x out, storage padded to multiples of 128. Every code is random; the scales are such that an output of
// the matrix has about the variance of one input.
struct RandomTrellis {
  RandomTrellis(int in, int out, int bits, codec::Codebook codebook, Random& random);

  int in, out, padded_in, padded_out, bits;
  codec::Codebook codebook;
  std::vector<std::uint8_t> words;                // [padded_in / 16][padded_out / 16][32 * bits]
  std::vector<std::uint16_t> suh_half, svh_half;  // as stored, F16
  std::vector<float> suh, svh;                    // the same values

  kernels::LinearWeights view() const;     // points into this object
  std::vector<float> dequantized() const;  // [out, in], as a plain checkpoint stores it
};

}  // namespace fairway::test
