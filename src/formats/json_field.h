// One value of a JSON document together with its file and key path, so that every complaint names both.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "fairway/error.h"

namespace fairway::formats {

// Refers to a document that must outlive it.
class JsonField {
 public:
  JsonField(const nlohmann::json& root, std::string file) : value_(&root), file_(std::move(file)) {}

  JsonField at(std::string_view key) const;                   // of an object; missing is an error
  std::optional<JsonField> find(std::string_view key) const;  // of an object; nothing if missing or null
  JsonField element(std::size_t index) const;                 // of an array; index < size

  std::size_t array_size() const;  // an error if this is not an array
  const nlohmann::json::object_t& object() const;
  bool boolean() const;
  const std::string& string() const;
  std::int64_t integer(std::int64_t low, std::int64_t high) const;  // low <= value <= high or an error

  // "string_value of object key `type`", the tag that tokenizer.json puts on every component.
  const std::string& type() const { return at("type").string(); }
  bool flag(std::string_view key, bool absent) const;  // of an object; absent or null gives `absent`

  const nlohmann::json& json() const { return *value_; }
  const std::string& file() const { return file_; }

  [[noreturn]] void fail(ErrorKind kind, const std::string& problem) const;
  [[noreturn]] void bad(const std::string& problem) const { fail(ErrorKind::kBadInput, problem); }
  [[noreturn]] void unsupported(const std::string& problem) const { fail(ErrorKind::kUnsupported, problem); }

 private:
  JsonField child(const nlohmann::json& value, std::string path) const;
  void expect(bool matches, std::string_view what) const;

  const nlohmann::json* value_;
  std::string file_;
  std::string path_;  // such as pre_tokenizer.pretokenizers[1].pattern; empty for the root
};

}  // namespace fairway::formats
