// Typed access to a JSON document with the key path in every message.
#include "formats/json_field.h"

#include <fmt/format.h>

#include <utility>

#include "formats/json.h"

namespace fairway::formats {

JsonField JsonField::child(const nlohmann::json& value, std::string path) const {
  JsonField field(value, file_);
  field.path_ = std::move(path);
  return field;
}

void JsonField::fail(ErrorKind kind, const std::string& problem) const {
  throw Error(kind,
              path_.empty() ? fmt::format("{}: {}", file_, problem) : fmt::format("{}: {}: {}", file_, path_, problem));
}

void JsonField::expect(bool matches, std::string_view what) const {
  if (matches) return;
  const bool container = value_->is_structured();
  bad(fmt::format("expected {}, found {}", what, container ? value_->type_name() : printable(value_->dump(), 60)));
}

JsonField JsonField::at(std::string_view key) const {
  const auto& members = object();
  const auto found = members.find(std::string(key));
  if (found == members.end()) bad(fmt::format("key \"{}\" is missing", key));
  return child(found->second, path_.empty() ? printable(key, 60) : fmt::format("{}.{}", path_, printable(key, 60)));
}

std::optional<JsonField> JsonField::find(std::string_view key) const {
  const auto& members = object();
  const auto found = members.find(std::string(key));
  if (found == members.end() || found->second.is_null()) return std::nullopt;
  return at(key);
}

JsonField JsonField::element(std::size_t index) const {
  return child((*value_)[index], fmt::format("{}[{}]", path_, index));
}

std::size_t JsonField::array_size() const {
  expect(value_->is_array(), "an array");
  return value_->size();
}

const nlohmann::json::object_t& JsonField::object() const {
  expect(value_->is_object(), "an object");
  return value_->get_ref<const nlohmann::json::object_t&>();
}

bool JsonField::boolean() const {
  expect(value_->is_boolean(), "true or false");
  return value_->get<bool>();
}

bool JsonField::flag(std::string_view key, bool absent) const {
  const auto field = find(key);
  return field ? field->boolean() : absent;
}

const std::string& JsonField::string() const {
  expect(value_->is_string(), "a string");
  return value_->get_ref<const std::string&>();
}

std::int64_t JsonField::integer(std::int64_t low, std::int64_t high) const {
  expect(value_->is_number_integer(), "an integer");
  const bool too_large = value_->is_number_unsigned() && value_->get<std::uint64_t>() > std::uint64_t{INT64_MAX};
  const std::int64_t value = too_large ? INT64_MAX : value_->get<std::int64_t>();
  if (too_large || value < low || value > high) {
    bad(fmt::format("{} is not in the range {}..{}", value_->dump(), low, high));
  }
  return value;
}

}  // namespace fairway::formats
