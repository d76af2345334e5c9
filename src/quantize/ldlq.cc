// Columns of tiles are independent of each other, so they are what the workers share out.
#include "quantize/ldlq.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "codec/half.h"
#include "codec/packing.h"
#include "fairway/error.h"
#include "quantize/random_signs.h"
#include "quantize/sensitivity.h"

namespace fairway::quantize {
namespace {

constexpr int kDim = codec::kTileDim;
using Tile = std::array<float, codec::kTileWeights>;  // [16 outputs][16 inputs]

// The 16 outputs at rows[16][in]. round(strip, wanted, tile) puts what becomes of a tile into `tile`.
template <typename Round>
void round_column(const float* rows, int in, const BlockLdl& ldl, float* result, Round round) {
  std::vector<float> errors(static_cast<std::size_t>(in) * kDim);  // [in][16 outputs]
  for (int strip = in / kDim - 1; strip >= 0; --strip) {
    const int first = strip * kDim;
    float feedback[kDim][kDim] = {};  // [output][input]
    for (int k = first + kDim; k < in; ++k) {
      const float* error = &errors[static_cast<std::size_t>(k) * kDim];
      const float* l = &ldl.lower[static_cast<std::size_t>(k) * in + first];
      for (int o = 0; o < kDim; ++o) {
        for (int i = 0; i < kDim; ++i) feedback[o][i] += error[o] * l[i];
      }
    }
    Tile wanted, tile;
    for (int o = 0; o < kDim; ++o) {
      for (int i = 0; i < kDim; ++i) {
        wanted[o * kDim + i] = rows[static_cast<std::size_t>(o) * in + first + i] + feedback[o][i];
      }
    }
    round(strip, wanted, tile);
    for (int o = 0; o < kDim; ++o) {
      for (int i = 0; i < kDim; ++i) {
        const std::size_t place = static_cast<std::size_t>(o) * in + first + i;
        result[place] = tile[o * kDim + i];
        errors[static_cast<std::size_t>(first + i) * kDim + o] = rows[place] - tile[o * kDim + i];
      }
    }
  }
}

void code_tile(const Tile& wanted, int bits, codec::Codebook codebook, TileCoder& coder, Tile& tile,
               std::uint8_t* words_out) {
  std::array<float, codec::kTileWeights> target;
  std::array<std::uint16_t, codec::kTileWeights> states;
  for (int p = 0; p < codec::kTileWeights; ++p) {
    target[p] = wanted[codec::tile_column(p) * kDim + codec::tile_row(p)];
  }
  coder.encode(target, states);
  std::array<std::uint16_t, codec::kWordsPerTilePerBit * kMaxBits> words;
  const std::span used(words.data(), static_cast<std::size_t>(codec::kWordsPerTilePerBit * bits));
  codec::pack_states(states, bits, used);
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(words_out, words.data(), used.size_bytes());
  const auto& table = codec::codebook_table(codebook);
  for (int p = 0; p < codec::kTileWeights; ++p) {
    tile[codec::tile_column(p) * kDim + codec::tile_row(p)] = codec::float_from_half(table[states[p]]);
  }
}

// A standard normal from two uniform numbers (Box and Muller).
float gaussian(std::uint64_t seed) {
  const double u = (static_cast<double>(mix(seed) >> 11) + 0.5) * 0x1p-53;
  const double v = static_cast<double>(mix(~seed) >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(2 * 3.14159265358979323846 * v));
}

}  // namespace

TileCoders::TileCoders(codec::Codebook codebook, int workers)
    : codebook_(codebook), coders_(static_cast<std::size_t>(workers)) {}

TileCoder& TileCoders::get(int worker, int bits) {
  std::unique_ptr<TileCoder>& coder = coders_[static_cast<std::size_t>(worker)];
  if (coder == nullptr || coder->bits() != bits) {
    coder.reset();  // the old one's memory first
    coder = std::make_unique<TileCoder>(codebook_, bits);
  }
  return *coder;
}

CodedInner ldlq(const std::vector<float>& inner, int in, int out, const BlockLdl& ldl, int bits, TileCoders& coders,
                kernels::KernelContext& context, const std::function<void()>& after_column,
                const std::atomic<bool>* cancel) {
  const std::size_t bytes = static_cast<std::size_t>(codec::tile_bytes(bits)),
                    columns = static_cast<std::size_t>(out) / kDim;
  CodedInner coded{std::vector<std::uint8_t>(columns * static_cast<std::size_t>(in / kDim) * bytes),
                   std::vector<float>(inner.size())};
  context.pool.parallel_for(static_cast<std::int64_t>(columns), [&](std::int64_t column, int worker) {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return;
    TileCoder& coder = coders.get(worker, bits);
    const std::size_t first = static_cast<std::size_t>(column) * kDim * static_cast<std::size_t>(in);
    round_column(&inner[first], in, ldl, &coded.decoded[first], [&](int strip, const Tile& wanted, Tile& tile) {
      const std::size_t index = static_cast<std::size_t>(strip) * columns + static_cast<std::size_t>(column);
      code_tile(wanted, bits, coders.codebook(), coder, tile, &coded.trellis[index * bytes]);
    });
    if (after_column) after_column();
  });
  if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
    throw Error(ErrorKind::kCancelled, "quantization was cancelled");
  }
  return coded;
}

std::vector<float> ldlq_noise(const std::vector<float>& inner, int in, int out, const BlockLdl& ldl, double deviation,
                              std::uint64_t seed, kernels::KernelContext& context) {
  std::vector<float> noisy(inner.size());
  const float scale = static_cast<float>(deviation);
  context.pool.parallel_for(out / kDim, [&](std::int64_t column, int) {
    const std::size_t first = static_cast<std::size_t>(column) * kDim * static_cast<std::size_t>(in);
    round_column(&inner[first], in, ldl, &noisy[first], [&](int strip, const Tile& wanted, Tile& tile) {
      const std::uint64_t start = mix(seed + mix(static_cast<std::uint64_t>(column * in + strip)));
      for (std::size_t i = 0; i < tile.size(); ++i) tile[i] = wanted[i] + scale * gaussian(start + i);
    });
  });
  return noisy;
}

}  // namespace fairway::quantize
