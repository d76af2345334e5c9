// Symbols, states and storage words of one trellis tile, for readers and writers of tiles on the host.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "codec/trellis.h"

namespace fairway::codec {

// A number of inputs or outputs as it is stored: the next multiple of the Hadamard block.
template <typename Int>
constexpr Int padded(Int n) {
  return (n + kHadamardDim - 1) / kHadamardDim * kHadamardDim;
}

// Bytes of one stored tile at a width.
constexpr int tile_bytes(int bits) {
  return 32 * bits;
}

// Stored 16-bit words [16 * bits] -> the 256 states in stream order.
void unpack_states(std::span<const std::uint16_t> words, int bits, std::span<std::uint16_t, kTileWeights> states);

// 256 symbols of `bits` bits in stream order -> stored 16-bit words [16 * bits].
void pack_symbols(std::span<const std::uint16_t, kTileWeights> symbols, int bits, std::span<std::uint16_t> words);

// 256 states -> stored words. Throws fairway::Error unless the states are a closed path of the trellis.
void pack_states(std::span<const std::uint16_t, kTileWeights> states, int bits, std::span<std::uint16_t> words);

// Stored words -> decoded inner weights, [16 rows (inputs)][16 columns (outputs)], exact halves widened to float.
void decode_tile(std::span<const std::uint16_t> words, int bits, Codebook codebook,
                 std::span<float, kTileWeights> tile);

// All 65,536 codebook values as half bit patterns, indexed by state. Built on first use, then shared.
const std::array<std::uint16_t, 65536>& codebook_table(Codebook codebook);

// Root mean square of the values of all states, which is the deviation of random weights.
float codebook_rms(Codebook codebook);

// "3inst", "mcg", "mul1".
const char* codebook_name(Codebook codebook);
std::optional<Codebook> find_codebook(std::string_view name);

}  // namespace fairway::codec
