// The codec computes the same bits on the device as on the host: every codebook value, every window of random tiles.
#include "codec/trellis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/stream.h"
#include "codec/cuda/decode.h"
#include "codec/packing.h"

namespace fairway::test {
namespace {

constexpr codec::Codebook kCodebooks[] = {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1};
constexpr int kStates = 65536;
constexpr int kTiles = 1000;
constexpr std::size_t kWeights = std::size_t{kTiles} * codec::kTileWeights;
constexpr std::uint8_t kPoison = 0xA5;

std::vector<std::uint16_t> fetch(backend::CudaStream& stream, const std::uint16_t* device, std::size_t count) {
  std::vector<std::uint16_t> host(count);
  stream.copy_to_host(host.data(), device, count * sizeof(std::uint16_t));
  stream.wait();
  return host;
}

TEST(GpuTrellis, EveryCodebookValueIsTheHosts) {
  backend::CudaStream stream(0);
  backend::DeviceArena arena(0, kStates * sizeof(std::uint16_t));
  auto* const device = arena.alloc<std::uint16_t>(kStates, "codebook values");
  for (const codec::Codebook codebook : kCodebooks) {
    stream.fill(device, kPoison, kStates * sizeof(std::uint16_t));
    launch_codebook(stream, codebook, device);
    const std::vector<std::uint16_t> found = fetch(stream, device, kStates);
    for (int state = 0; state < kStates; ++state) {
      ASSERT_EQ(found[static_cast<std::size_t>(state)],
                codec::codebook_half_bits(codebook, static_cast<codec::u32>(state)))
          << codec::codebook_name(codebook) << " state " << state;
    }
  }
}

struct Decoded {
  std::vector<std::uint16_t> states, half_bits;
};

// words: stored 16-bit words of kTiles tiles.
Decoded decode_on_device(const std::vector<std::uint16_t>& words, int bits, codec::Codebook codebook) {
  const std::size_t word_bytes = words.size() * sizeof(std::uint16_t);
  backend::CudaStream stream(0);
  backend::DeviceArena arena(
      0, backend::DeviceArena::rounded(word_bytes) + 2 * backend::DeviceArena::rounded(2 * kWeights));
  auto* const device_words = arena.alloc<std::uint32_t>(words.size() / 2, "tiles");
  auto* const states = arena.alloc<std::uint16_t>(kWeights, "states");
  auto* const half_bits = arena.alloc<std::uint16_t>(kWeights, "values");
  stream.copy_to_device(device_words, words.data(), word_bytes);
  stream.fill(states, kPoison, 2 * kWeights);
  stream.fill(half_bits, kPoison, 2 * kWeights);
  launch_decode(stream, bits, codebook, device_words, kTiles, states, half_bits);
  Decoded decoded{fetch(stream, states, kWeights), fetch(stream, half_bits, kWeights)};
  return decoded;
}

struct Tiles {
  std::vector<std::uint16_t> words;   // as stored
  std::vector<std::uint16_t> states;  // from the symbols by shifting them in one after the other, without any window
};

Tiles random_tiles(int bits, std::mt19937& random) {
  const auto per_tile = static_cast<std::size_t>(codec::kWordsPerTilePerBit * bits);
  Tiles tiles{std::vector<std::uint16_t>(per_tile * kTiles), std::vector<std::uint16_t>(kWeights)};
  for (std::size_t tile = 0; tile < kTiles; ++tile) {
    std::array<std::uint16_t, codec::kTileWeights> symbols;
    for (std::uint16_t& symbol : symbols) symbol = static_cast<std::uint16_t>(random() & ((1u << bits) - 1u));
    codec::pack_symbols(symbols, bits, std::span(tiles.words).subspan(tile * per_tile, per_tile));
    unsigned state = 0;
    for (std::size_t step = 0; step < 2 * symbols.size(); ++step) {  // the second time around, the ring is closed
      const std::size_t p = step % symbols.size();
      state = (state << bits | symbols[p]) & 0xFFFFu;
      tiles.states[tile * symbols.size() + p] = static_cast<std::uint16_t>(state);
    }
  }
  return tiles;
}

std::vector<std::uint16_t> host_states(const Tiles& tiles, int bits) {
  const auto per_tile = static_cast<std::size_t>(codec::kWordsPerTilePerBit * bits);
  std::vector<std::uint16_t> states(kWeights);
  for (std::size_t tile = 0; tile < kTiles; ++tile) {
    std::array<std::uint16_t, codec::kTileWeights> of_tile;
    codec::unpack_states(std::span(tiles.words).subspan(tile * per_tile, per_tile), bits, of_tile);
    std::copy(of_tile.begin(), of_tile.end(), states.begin() + static_cast<std::ptrdiff_t>(tile * of_tile.size()));
  }
  return states;
}

TEST(GpuTrellis, EveryWindowAndValueOfRandomTilesIsTheHosts) {
  constexpr unsigned kSeed = 20240811;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
#define FAIRWAY_WIDTH(bits) bits,
  for (const int bits : {FAIRWAY_FOR_EACH_BITS(FAIRWAY_WIDTH)}) {
#undef FAIRWAY_WIDTH
    const Tiles tiles = random_tiles(bits, random);
    ASSERT_EQ(host_states(tiles, bits), tiles.states) << bits << " bits";
    for (const codec::Codebook codebook : kCodebooks) {
      SCOPED_TRACE(std::to_string(bits) + " bits, " + codec::codebook_name(codebook));
      const Decoded decoded = decode_on_device(tiles.words, bits, codebook);
      for (std::size_t i = 0; i < kWeights; ++i) {
        ASSERT_EQ(decoded.states[i], tiles.states[i]) << "tile " << i / 256 << " position " << i % 256;
        ASSERT_EQ(decoded.half_bits[i], codec::codebook_half_bits(codebook, tiles.states[i]))
            << "tile " << i / 256 << " position " << i % 256;
      }
    }
  }
}

}  // namespace
}  // namespace fairway::test
