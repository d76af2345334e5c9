// Complaints about YAML files, with the line.
#pragma once

#include <fmt/format.h>
#include <yaml-cpp/mark.h>

#include <string>

#include "fairway/error.h"

namespace fairway::formats {

// Error(kBadInput) of a file; without a line where the mark has none.
inline Error yaml_error(const std::string& source, const YAML::Mark& mark, const std::string& what) {
  return {ErrorKind::kBadInput, mark.is_null() ? fmt::format("{}: {}", source, what)
                                               : fmt::format("{}: line {}: {}", source, mark.line + 1, what)};
}

}  // namespace fairway::formats
