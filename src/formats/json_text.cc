// json_text: a recursive printer over an ordered document.
#include "formats/json_text.h"

#include <algorithm>

namespace fairway::formats {
namespace {

using Json = nlohmann::ordered_json;

std::string scalar_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool is_flat(const Json& array) {
  return std::all_of(array.begin(), array.end(), [](const Json& item) { return !item.is_structured(); });
}

void append_json(const Json& value, int indent, std::string& out) {
  if (!value.is_structured() || value.empty()) {
    out += scalar_text(value);
    return;
  }
  const std::string inner(static_cast<std::size_t>(indent) + 2, ' ');
  if (value.is_array() && is_flat(value)) {
    const char* separator = "[";
    for (const Json& item : value) {
      out += separator;
      out += scalar_text(item);
      separator = ", ";
    }
    out += "]";
    return;
  }
  const char* separator = value.is_array() ? "[\n" : "{\n";
  for (auto item = value.begin(); item != value.end(); ++item) {
    out += separator;
    out += inner;
    if (value.is_object()) out += scalar_text(Json(item.key())) + ": ";
    append_json(*item, indent + 2, out);
    separator = ",\n";
  }
  out += "\n";
  out.append(static_cast<std::size_t>(indent), ' ');
  out += value.is_array() ? "]" : "}";
}

}  // namespace

std::string json_text(const Json& value) {
  std::string out;
  append_json(value, 0, out);
  out += "\n";
  return out;
}

}  // namespace fairway::formats
