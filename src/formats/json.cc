// JSON reading with limits: a filter in front of every consumer of parser events, and the consumer that builds
// documents.
#include "formats/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "fairway/error.h"
#include "formats/utf8.h"

namespace fairway::formats {
namespace {

using nlohmann::json;

// Counts depth before anything is passed on, and turns the parser's complaints into Error.
class LimitFilter final : public JsonSax {
 public:
  LimitFilter(const std::string& name, JsonSax& sink, int max_depth) : name_(name), sink_(sink), left_(max_depth) {
    max_depth_ = max_depth;
  }

  bool null() override { return sink_.null(); }
  bool boolean(bool value) override { return sink_.boolean(value); }
  bool number_integer(number_integer_t value) override { return sink_.number_integer(value); }
  bool number_unsigned(number_unsigned_t value) override { return sink_.number_unsigned(value); }
  bool number_float(number_float_t value, const string_t& text) override { return sink_.number_float(value, text); }
  bool string(string_t& value) override { return sink_.string(value); }
  bool binary(binary_t& value) override { return sink_.binary(value); }
  bool key(string_t& value) override { return sink_.key(value); }
  bool start_object(std::size_t elements) override {
    descend();
    return sink_.start_object(elements);
  }
  bool end_object() override {
    ++left_;
    return sink_.end_object();
  }
  bool start_array(std::size_t elements) override {
    descend();
    return sink_.start_array(elements);
  }
  bool end_array() override {
    ++left_;
    return sink_.end_array();
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& problem) override {
    std::string_view reason = problem.what();
    if (reason.starts_with('[')) reason.remove_prefix(std::min(reason.size(), reason.find(']') + 2));
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: invalid JSON near byte {}: {}", name_, position, printable(reason, 300)));
  }

 private:
  void descend() {
    if (left_-- <= 0) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: JSON is nested deeper than {} levels, the limit here", name_, max_depth_));
    }
  }

  const std::string& name_;
  JsonSax& sink_;
  int left_;
  int max_depth_;
};

class DocumentBuilder final : public JsonSax {
 public:
  DocumentBuilder(const std::string& name, bool reject_duplicates)
      : name_(name), reject_duplicates_(reject_duplicates) {}

  json take() { return std::move(root_); }

  bool null() override { return put(json(nullptr)); }
  bool boolean(bool value) override { return put(json(value)); }
  bool number_integer(number_integer_t value) override { return put(json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return put(json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return put(json(value)); }
  bool string(string_t& value) override { return put(json(std::move(value))); }
  bool binary(binary_t& value) override { return put(json(std::move(value))); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    auto [position, inserted] = open_.back()->get_ref<json::object_t&>().try_emplace(std::move(value));
    if (!inserted && reject_duplicates_) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: duplicate JSON key \"{}\"", name_, printable(position->first)));
    }
    slot_ = &position->second;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& problem) override {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: invalid JSON: {}", name_, printable(problem.what())));
  }

 private:
  json* place(json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& items = open_.back()->get_ref<json::array_t&>();
      items.push_back(std::move(value));
      return &items.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool put(json&& value) {
    place(std::move(value));
    return true;
  }
  // A container's address is stable while it is open: its parent gets no further element before it is closed.
  bool open(json&& container) {
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& name_;
  bool reject_duplicates_;
  json root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;  // where the value of the last key goes
};

}  // namespace

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Step step = read_utf8(text, i);
    if (i + step.length > max_bytes) return out + "...";
    const bool readable = step.kind == Utf8Kind::kValid && step.code >= 0x20 && step.code != 0x7F;
    for (const char c : text.substr(i, step.length)) {
      if (!readable) {
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        continue;
      }
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    i += step.length;
  }
  return out;
}

void parse_json_events(std::string_view text, const std::string& name, JsonSax& sink, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: JSON of {} bytes is larger than {} bytes, the limit here", name,
                                                  text.size(), limits.max_bytes));
  }
  // The parser takes a NUL for the end of its input and would accept whatever follows it.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: invalid JSON near byte {}: NUL byte", name, nul + 1));
  }
  LimitFilter filter(name, sink, limits.max_depth);
  if (!json::sax_parse(text.begin(), text.end(), &filter)) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: invalid JSON", name));
  }
}

nlohmann::json parse_json(std::string_view text, const std::string& name, const JsonLimits& limits) {
  DocumentBuilder builder(name, limits.reject_duplicate_keys);
  parse_json_events(text, name, builder, limits);
  return builder.take();
}

}  // namespace fairway::formats
