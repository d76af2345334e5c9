// The one place where untrusted JSON is read: depth, size, duplicate keys and stray NULs are checked while parsing.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fairway::formats {

struct JsonLimits {
  int max_depth = 64;                            // nested objects and arrays; 0 allows a bare scalar only
  std::size_t max_bytes = std::size_t{1} << 30;  // of the text
  bool reject_duplicate_keys = true;             // false: the last one wins
};

// Parses exactly one JSON value (surrounding white space allowed). Every failure - syntax with its position, a limit, a
// duplicate key by name, invalid UTF-8 - is Error(kBadInput) whose message begins with `name`, usually a file path.
nlohmann::json parse_json(std::string_view text, const std::string& name, const JsonLimits& limits = {});

using JsonSax = nlohmann::json_sax<nlohmann::json>;

// The same checks for readers that want events instead of a document, so that memory stays near what they keep. The
// sink sees each event after depth was checked and reports its own findings by throwing; its parse_error is not called.
// Duplicate keys are the sink's business, because only it knows which keys it keeps.
void parse_json_events(std::string_view text, const std::string& name, JsonSax& sink, const JsonLimits& limits = {});

// Text from a file made fit for a one-line message: control bytes, quotes, backslashes and bytes that are not UTF-8 are
// escaped, and what is longer than `max_bytes` is cut with "...".
std::string printable(std::string_view text, std::size_t max_bytes = 200);

}  // namespace fairway::formats
