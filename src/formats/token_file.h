// Files that stand for a stream of tokens: texts, and JSON arrays of token ids.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace fairway::formats {

enum class TokenFile { kText, kIds };

// Tokens of a file's contents. kText: documents as encode_documents() cuts them, none if the file is empty. kIds: a
// JSON array of integers from 0 to vocab_size - 1, or an object with such an array as "ids". Error(kBadInput) whose
// message begins with `name`.
std::vector<int> parse_token_file(TokenFile kind, std::string_view contents, const std::string& name,
                                  const Tokenizer& tokenizer, int vocab_size);

}  // namespace fairway::formats
