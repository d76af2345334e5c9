// The byte-level alphabet: every byte has one printable character that stands for it in tokenizer.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fairway::formats {

// Printable Latin-1 bytes (21..7E, A1..AC, AE..FF) stand for themselves; the 68 others, in order, are U+0100...U+0143.
char16_t byte_symbol(std::uint8_t byte);

// The byte of a symbol, or -1 if the character is not in the alphabet.
int symbol_byte(char32_t symbol);

std::string bytes_to_symbols(std::string_view bytes);

// Nothing if one of the characters is not a symbol. `symbols` must be valid UTF-8.
std::optional<std::string> symbols_to_bytes(std::string_view symbols);

}  // namespace fairway::formats
