// Both directions of the byte-level alphabet, computed once.
#include "formats/byte_symbols.h"

#include <array>

#include "formats/utf8.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kSymbolLimit = 0x100 + 68;  // 68 bytes are not printable Latin-1

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char16_t, 256> symbols{};
  std::array<std::int16_t, kSymbolLimit> bytes{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.bytes) byte = -1;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const unsigned symbol = stands_for_itself(byte) ? byte : next++;
    alphabet.symbols[byte] = static_cast<char16_t>(symbol);
    alphabet.bytes[symbol] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.symbols[0xAD] == kSymbolLimit - 1);

}  // namespace

char16_t byte_symbol(std::uint8_t byte) {
  return kAlphabet.symbols[byte];
}

int symbol_byte(char32_t symbol) {
  return symbol < kSymbolLimit ? kAlphabet.bytes[symbol] : -1;
}

std::string bytes_to_symbols(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) append_utf8(out, byte_symbol(static_cast<std::uint8_t>(c)));
  return out;
}

std::optional<std::string> symbols_to_bytes(std::string_view symbols) {
  std::string out;
  out.reserve(symbols.size());
  for (std::size_t i = 0; i < symbols.size();) {
    const Utf8Step step = read_utf8(symbols, i);
    const int byte = symbol_byte(step.code);
    if (byte < 0) return std::nullopt;
    out += static_cast<char>(byte);
    i += step.length;
  }
  return out;
}

}  // namespace fairway::formats
