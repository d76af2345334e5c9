// JSON as people read it: indented, short arrays on one line.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fairway::formats {

// Indented JSON with arrays of plain values on one line; ends with a line feed. Invalid UTF-8 becomes U+FFFD.
std::string json_text(const nlohmann::ordered_json& value);

}  // namespace fairway::formats
