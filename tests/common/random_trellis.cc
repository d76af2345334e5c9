// A random trellis-coded matrix and the same matrix as plain floats, formed by the scalar codec.
#include "common/random_trellis.h"

#include <array>
#include <cmath>
#include <cstring>

#include "codec/hadamard.h"
#include "codec/half.h"
#include "codec/packing.h"

namespace fairway::test {
namespace {

// Magnitudes within a factor of two, random signs, rounded to half as stored.
void fill_scales(int count, float scale, Random& random, std::vector<std::uint16_t>& halves,
                 std::vector<float>& floats) {
  for (int i = 0; i < count; ++i) {
    const float magnitude = scale * random.uniform(0.7f, 1.4f);
    halves.push_back(codec::half_from_float(random.next() & 1 ? magnitude : -magnitude));
    floats.push_back(codec::float_from_half(halves.back()));
  }
}

}  // namespace

std::uint64_t Random::next() {
  std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

float Random::uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(next() >> 40) * 0x1p-24f;
}

float Random::normal() {
  float sum = -6;
  for (int i = 0; i < 12; ++i) sum += uniform(0, 1);
  return sum;
}

std::vector<float> Random::normals(std::size_t count, float scale) {
  std::vector<float> values(count);
  for (float& value : values) value = scale * normal();
  return values;
}

RandomTrellis::RandomTrellis(int in_size, int out_size, int width, codec::Codebook book, Random& random)
    : in(in_size),
      out(out_size),
      padded_in(codec::padded(in_size)),
      padded_out(codec::padded(out_size)),
      bits(width),
      codebook(book),
      words(static_cast<std::size_t>(padded_in) * padded_out / 8 * width) {
  for (std::size_t i = 0; i < words.size(); i += 8) {
    const std::uint64_t value = random.next();
    std::memcpy(words.data() + i, &value, sizeof value);
  }
  fill_scales(padded_in, 1.0f / std::sqrt(static_cast<float>(in)), random, suh_half, suh);
  fill_scales(padded_out, 1.0f, random, svh_half, svh);
}

kernels::LinearWeights RandomTrellis::view() const {
  kernels::TrellisMatrix matrix;
  matrix.words = words.data();
  matrix.in = padded_in;
  matrix.out = padded_out;
  matrix.bits = bits;
  matrix.codebook = codebook;
  matrix.suh = suh.data();
  matrix.svh = svh.data();
  return {in, out, matrix};
}

std::vector<float> RandomTrellis::dequantized() const {
  const std::size_t columns = static_cast<std::size_t>(padded_out);
  std::vector<float> w(static_cast<std::size_t>(padded_in) * columns);  // [padded_in, padded_out]
  const std::size_t tile_words = static_cast<std::size_t>(16 * bits);
  std::vector<std::uint16_t> stored(tile_words);
  std::array<float, codec::kTileWeights> tile;
  for (int i = 0; i < padded_in / 16; ++i) {
    for (int j = 0; j < padded_out / 16; ++j) {
      const std::size_t index = static_cast<std::size_t>(i) * (columns / 16) + static_cast<std::size_t>(j);
      std::memcpy(stored.data(), words.data() + index * tile_words * 2, tile_words * 2);
      codec::decode_tile(stored, bits, codebook, tile);
      for (int r = 0; r < 16; ++r) {
        std::memcpy(&w[(static_cast<std::size_t>(i) * 16 + r) * columns + j * 16], &tile[r * 16], 16 * sizeof(float));
      }
    }
  }
  std::array<float, codec::kHadamardDim> column;
  for (std::size_t block = 0; block < static_cast<std::size_t>(padded_in); block += 128) {
    for (std::size_t c = 0; c < columns; ++c) {
      for (std::size_t r = 0; r < 128; ++r) column[r] = w[(block + r) * columns + c];
      codec::hadamard128(column.data());
      for (std::size_t r = 0; r < 128; ++r) w[(block + r) * columns + c] = column[r];
    }
  }
  for (std::size_t block = 0; block < w.size(); block += 128) codec::hadamard128(&w[block]);

  std::vector<float> result(static_cast<std::size_t>(in) * out);
  for (std::size_t r = 0; r < static_cast<std::size_t>(in); ++r) {
    for (std::size_t c = 0; c < static_cast<std::size_t>(out); ++c) {
      result[c * in + r] = suh[r] * w[r * columns + c] * svh[c];
    }
  }
  return result;
}

}  // namespace fairway::test
