// The trellis codec against the format's checksums and the shared vectors, bit for bit; packing round trips.
#include "codec/packing.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "codec/half.h"
#include "codec/vectors.h"
#include "fairway/error.h"

namespace fairway::codec {
namespace {

constexpr Codebook kCodebooks[] = {Codebook::k3inst, Codebook::kMcg, Codebook::kMul1};

// CRC-32 (IEEE 802.3, reflected) of 16-bit values in little-endian byte order.
std::uint32_t crc32(std::span<const std::uint16_t> values) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const unsigned value : values) {
    for (const unsigned byte : {value & 0xFFu, value >> 8}) {
      crc ^= byte;
      for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
  }
  return ~crc;
}

TEST(Codebook, TablesHaveTheChecksumsOfTheFormat) {
  EXPECT_EQ(crc32(codebook_table(Codebook::k3inst)), 0x4c83d524u);
  EXPECT_EQ(crc32(codebook_table(Codebook::kMcg)), 0xd2d13c52u);
  EXPECT_EQ(crc32(codebook_table(Codebook::kMul1)), 0x2bdf05c5u);
}

TEST(Codebook, KnownValues) {
  const std::uint32_t states[] = {0, 1, 2, 3, 0x1234, 0x8000, 0xABCD, 0xFFFF};
  const std::uint16_t expected[3][8] = {{0x3a25, 0xbb5b, 0x3b74, 0x34b6, 0xc066, 0xb7f8, 0xb98e, 0xb110},
                                        {0x3f60, 0x304e, 0xba13, 0x3ab8, 0x3e0f, 0xb915, 0x35e7, 0x3acd},
                                        {0xc2e8, 0x3921, 0xb72d, 0x3239, 0xb89e, 0xbaf2, 0xbd42, 0xb936}};
  for (const Codebook codebook : kCodebooks) {
    for (int i = 0; i < 8; ++i) {
      EXPECT_EQ(codebook_half_bits(codebook, states[i]), expected[static_cast<int>(codebook)][i]) << i;
    }
  }
}

TEST(TileOrder, PositionRowAndColumnAreInverse) {
  std::array<bool, kTileWeights> seen{};
  for (int r = 0; r < kTileDim; ++r) {
    for (int c = 0; c < kTileDim; ++c) {
      const int p = tile_position(r, c);
      ASSERT_TRUE(p >= 0 && p < kTileWeights);
      seen[static_cast<std::size_t>(p)] = true;
      EXPECT_EQ(tile_row(p), r);
      EXPECT_EQ(tile_column(p), c);
    }
  }
  for (const bool s : seen) EXPECT_TRUE(s);
}

// Worked cases of the format description.
TEST(Packing, WorkedCases) {
  std::array<std::uint16_t, kTileWeights> symbols{}, states;
  std::array<std::uint16_t, 64> four;
  symbols[0] = 0xA, symbols[1] = 0xB, symbols[2] = 0xC, symbols[3] = 0xD;
  pack_symbols(symbols, 4, four);
  EXPECT_EQ(four[0], 0x0000);
  EXPECT_EQ(four[1], 0xABCD);
  unpack_states(four, 4, states);
  const std::uint16_t expected[] = {0x000A, 0x00AB, 0x0ABC, 0xABCD, 0xBCD0, 0xCD00};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(states[i], expected[i]) << i;

  symbols = {};
  symbols[255] = 0xF;
  pack_symbols(symbols, 4, four);
  unpack_states(four, 4, states);
  EXPECT_EQ(states[0], 0x00F0);
  EXPECT_EQ(states[1], 0x0F00);
  EXPECT_EQ(states[2], 0xF000);
  EXPECT_EQ(states[255], 0x000F);

  symbols = {};
  symbols[5] = 5;
  std::array<std::uint16_t, 48> three;
  pack_symbols(symbols, 3, three);
  EXPECT_EQ(three[1], 0x0001);
  EXPECT_EQ(three[0], 0x4000);
}

TEST(Packing, SymbolsAndStatesRoundTripAtEveryWidth) {
  const unsigned seed = 20240607;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
    std::array<std::uint16_t, kTileWeights> symbols, states;
    for (auto& s : symbols) s = static_cast<std::uint16_t>(random() & ((1u << bits) - 1));
    std::vector<std::uint16_t> words(static_cast<std::size_t>(kWordsPerTilePerBit * bits)), again(words.size());
    pack_symbols(symbols, bits, words);
    unpack_states(words, bits, states);
    // The definition: each state is the previous one shifted by the symbol, on a ring.
    for (std::size_t p = 0; p < states.size(); ++p) {
      const unsigned previous = states[(p + states.size() - 1) % states.size()];
      EXPECT_EQ(states[p], static_cast<std::uint16_t>(previous << bits | symbols[p])) << "bits " << bits << " p " << p;
    }
    pack_states(states, bits, again);
    EXPECT_EQ(again, words) << "bits " << bits;
  }
}

TEST(Packing, RefusesWhatIsNotATile) {
  std::array<std::uint16_t, kTileWeights> values{};
  std::array<std::uint16_t, 48> words;
  values[7] = 8;
  EXPECT_THROW(pack_symbols(values, 3, words), Error);
  EXPECT_THROW(pack_states(values, 3, words), Error);  // not a path: the neighbours of state 7 do not contain it
  values = {};
  EXPECT_THROW(pack_symbols(values, 4, words), Error);
  EXPECT_THROW(pack_symbols(values, 0, std::span(words).first(0)), Error);
  EXPECT_THROW(unpack_states(std::span<const std::uint16_t>(words).first(47), 3, values), Error);
}

TEST(Vectors, StatesAndDecodedTilesBitForBit) {
  const test::Vectors vectors = test::load_vectors();
  for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
    const std::string prefix = fmt::format("K{}_", bits);
    const auto& trellis = vectors.words.at(prefix + "trellis");
    const auto& expected_states = vectors.words.at(prefix + "states");
    const auto tile_words = static_cast<std::size_t>(kWordsPerTilePerBit * bits);
    ASSERT_EQ(trellis.size(), 4 * tile_words);
    for (std::size_t tile = 0; tile < 4; ++tile) {
      const auto words = std::span(trellis).subspan(tile * tile_words, tile_words);
      std::array<std::uint16_t, kTileWeights> states;
      unpack_states(words, bits, states);
      for (std::size_t p = 0; p < states.size(); ++p) {
        EXPECT_EQ(states[p], expected_states[tile * kTileWeights + p]) << prefix << tile << " " << p;
      }
      std::vector<std::uint16_t> packed(tile_words);
      pack_states(states, bits, packed);
      EXPECT_TRUE(std::equal(packed.begin(), packed.end(), words.begin())) << prefix << tile;
      for (const Codebook codebook : kCodebooks) {
        const auto& inner = vectors.words.at(prefix + codebook_name(codebook) + "_inner");  // [32][32]
        std::array<float, kTileWeights> decoded;
        decode_tile(words, bits, codebook, decoded);
        for (std::size_t i = 0; i < decoded.size(); ++i) {
          const std::size_t row = tile / 2 * kTileDim + i / kTileDim;
          const std::size_t column = tile % 2 * kTileDim + i % kTileDim;
          EXPECT_EQ(half_from_float(decoded[i]), inner[row * 32 + column])
              << prefix << codebook_name(codebook) << " " << i;
          EXPECT_EQ(float_from_half(half_from_float(decoded[i])), decoded[i]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fairway::codec
