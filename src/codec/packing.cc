// Host side of the tile format: words to states and back, and the decoded values of a tile.
#include "codec/packing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "codec/half.h"
#include "fairway/error.h"

namespace fairway::codec {
namespace {

void check_sizes(std::size_t words, int bits, const char* what) {
  if (bits < FAIRWAY_MIN_BITS || bits > FAIRWAY_MAX_BITS) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: width of {} bits, expected {} to {}", what, bits, FAIRWAY_MIN_BITS, FAIRWAY_MAX_BITS));
  }
  if (words != static_cast<std::size_t>(kWordsPerTilePerBit * bits)) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} words for a tile of {} bits, expected {}", what, words, bits,
                                               kWordsPerTilePerBit * bits));
  }
}

// Word m of the tile seen as 32-bit little-endian words.
u32 word32(std::span<const std::uint16_t> words, int m) {
  const std::size_t i = static_cast<std::size_t>(m) * 2;
  return words[i] | static_cast<u32>(words[i + 1]) << 16;
}

std::array<std::uint16_t, 65536> make_table(Codebook codebook) {
  std::array<std::uint16_t, 65536> table;
  for (u32 state = 0; state < table.size(); ++state) table[state] = codebook_half_bits(codebook, state);
  return table;
}

}  // namespace

void unpack_states(std::span<const std::uint16_t> words, int bits, std::span<std::uint16_t, kTileWeights> states) {
  check_sizes(words.size(), bits, "unpack_states");
  for (int p = 0; p < kTileWeights; ++p) {
    states[static_cast<std::size_t>(p)] = static_cast<std::uint16_t>(window_state(
        word32(words, window_previous_word(p, bits)), word32(words, window_last_word(p, bits)), window_shift(p, bits)));
  }
}

void pack_symbols(std::span<const std::uint16_t, kTileWeights> symbols, int bits, std::span<std::uint16_t> words) {
  check_sizes(words.size(), bits, "pack_symbols");
  std::fill(words.begin(), words.end(), std::uint16_t{0});
  for (int p = 0; p < kTileWeights; ++p) {
    const unsigned symbol = symbols[static_cast<std::size_t>(p)];
    if (symbol >> bits != 0) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("pack_symbols: symbol {} is {}, expected below {}", p, symbol, 1 << bits));
    }
    for (int b = 0; b < bits; ++b) {
      const int position = p * bits + b;  // in stream bits; 16-bit units are stored with neighbours swapped
      if (symbol >> (bits - 1 - b) & 1u) {
        const std::size_t word = static_cast<std::size_t>(position / 16 ^ 1);
        words[word] = static_cast<std::uint16_t>(words[word] | 1u << (15 - position % 16));
      }
    }
  }
}

void pack_states(std::span<const std::uint16_t, kTileWeights> states, int bits, std::span<std::uint16_t> words) {
  check_sizes(words.size(), bits, "pack_states");
  std::array<std::uint16_t, kTileWeights> symbols;
  for (std::size_t p = 0; p < symbols.size(); ++p) {
    symbols[p] = static_cast<std::uint16_t>(states[p] & ((1u << bits) - 1u));
  }
  pack_symbols(symbols, bits, words);
  std::array<std::uint16_t, kTileWeights> again;
  unpack_states(words, bits, again);
  const auto mismatch = std::mismatch(again.begin(), again.end(), states.begin());
  if (mismatch.first != again.end()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("pack_states: state {} is {:#06x}, but its predecessors and its last {} bits say "
                            "{:#06x}: not a closed path",
                            mismatch.first - again.begin(), *mismatch.second, bits, *mismatch.first));
  }
}

void decode_tile(std::span<const std::uint16_t> words, int bits, Codebook codebook,
                 std::span<float, kTileWeights> tile) {
  std::array<std::uint16_t, kTileWeights> states;
  unpack_states(words, bits, states);
  const auto& table = codebook_table(codebook);
  for (int p = 0; p < kTileWeights; ++p) {
    tile[static_cast<std::size_t>(tile_row(p) * kTileDim + tile_column(p))] =
        float_from_half(table[states[static_cast<std::size_t>(p)]]);
  }
}

const std::array<std::uint16_t, 65536>& codebook_table(Codebook codebook) {
  switch (codebook) {
    case Codebook::k3inst: {
      static const auto table = make_table(Codebook::k3inst);
      return table;
    }
    case Codebook::kMcg: {
      static const auto table = make_table(Codebook::kMcg);
      return table;
    }
    case Codebook::kMul1: {
      static const auto table = make_table(Codebook::kMul1);
      return table;
    }
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("codebook_table: codebook {}, expected 0 to 2", static_cast<int>(codebook)));
}

float codebook_rms(Codebook codebook) {
  double sum = 0;
  for (const std::uint16_t half : codebook_table(codebook)) {
    const double value = float_from_half(half);
    sum += value * value;
  }
  return static_cast<float>(std::sqrt(sum / 65536));
}

const char* codebook_name(Codebook codebook) {
  switch (codebook) {
    case Codebook::k3inst:
      return "3inst";
    case Codebook::kMcg:
      return "mcg";
    case Codebook::kMul1:
      return "mul1";
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("codebook_name: codebook {}, expected 0 to 2", static_cast<int>(codebook)));
}

std::optional<Codebook> find_codebook(std::string_view name) {
  for (const Codebook codebook : {Codebook::k3inst, Codebook::kMcg, Codebook::kMul1}) {
    if (name == codebook_name(codebook)) return codebook;
  }
  return std::nullopt;
}

}  // namespace fairway::codec
