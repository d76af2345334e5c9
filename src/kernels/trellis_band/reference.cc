// The scalar reference of a trellis-coded linear layer: definitions written out, double accumulation.
#include "kernels/trellis_band/reference.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "codec/packing.h"
#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {
namespace {

// x[0..127] times the Hadamard matrix: the sum of its definition, element by element.
void transform(double* x) {
  std::array<double, kBandWidth> y{};
  for (unsigned i = 0; i < y.size(); ++i) {
    for (unsigned j = 0; j < y.size(); ++j) y[i] += (std::popcount(i & j) & 1) ? -x[j] : x[j];
  }
  for (std::size_t i = 0; i < y.size(); ++i) x[i] = y[i] / std::sqrt(static_cast<double>(kBandWidth));
}

void load_tile(const TrellisMatrix& matrix, int kt, int nt, std::span<float, codec::kTileWeights> tile) {
  std::array<std::uint16_t, codec::kWordsPerTilePerBit * FAIRWAY_MAX_BITS> words;
  const std::int64_t bytes = codec::tile_bytes(matrix.bits);
  const std::int64_t index = std::int64_t{kt} * (matrix.out / codec::kTileDim) + nt;
  std::memcpy(words.data(), matrix.words + index * bytes, static_cast<std::size_t>(bytes));
  codec::decode_tile(std::span(words).first(static_cast<std::size_t>(codec::kWordsPerTilePerBit * matrix.bits)),
                     matrix.bits, matrix.codebook, tile);
}

}  // namespace

void reference_transform_input(const TrellisMatrix& matrix, const float* x, int count, double* out) {
  for (int i = 0; i < matrix.in; ++i) out[i] = i < count ? static_cast<double>(x[i]) * matrix.suh[i] : 0.0;
  for (int begin = 0; begin < matrix.in; begin += kBandWidth) transform(out + begin);
}

void reference_inner(const TrellisMatrix& matrix, int band, const double* x, int m, double* y) {
  for (std::int64_t i = 0; i < std::int64_t{m} * kBandWidth; ++i) y[i] = 0;
  std::array<float, codec::kTileWeights> tile;
  for (int kt = 0; kt < matrix.in / codec::kTileDim; ++kt) {
    for (int t = 0; t < kBandTiles; ++t) {
      load_tile(matrix, kt, band * kBandTiles + t, tile);
      for (int row = 0; row < m; ++row) {
        const double* in = x + std::int64_t{row} * matrix.in + kt * codec::kTileDim;
        double* out = y + std::int64_t{row} * kBandWidth + t * codec::kTileDim;
        for (int r = 0; r < codec::kTileDim; ++r) {
          const float* weights = tile.data() + r * codec::kTileDim;
          for (int c = 0; c < codec::kTileDim; ++c) out[c] += in[r] * weights[c];
        }
      }
    }
  }
}

void reference_band(const TrellisMatrix& matrix, int band, const double* x, int m, double* y) {
  reference_inner(matrix, band, x, m, y);
  for (int row = 0; row < m; ++row) {
    double* out = y + std::int64_t{row} * kBandWidth;
    transform(out);
    for (int i = 0; i < kBandWidth; ++i) {
      const int n = band * kBandWidth + i;
      out[i] = out[i] * matrix.svh[n] + (matrix.bias == nullptr ? 0.0f : matrix.bias[n]);
    }
  }
}

}  // namespace fairway::kernels
