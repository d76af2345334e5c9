// The safetensors header: an 8-byte little-endian length, that many bytes of JSON, then the tensors back to back.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>
#include <utility>

#include "fairway/error.h"
#include "formats/json.h"
#include "formats/safetensors.h"

namespace fairway::formats {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kMaxHeaderBytes = 100'000'000;  // limit of the reference library
constexpr std::size_t kMaxTensors = 1'000'000;        // thirty times what a 30B MoE model stores
constexpr std::size_t kMaxRank = 16;

// One entry of the header before its bytes are known to exist. offsets are relative to the end of the header.
struct Entry {
  TensorView tensor;
  std::int64_t offsets[2] = {0, 0};
  std::size_t offset_count = 0;
  bool has_type = false, has_shape = false, has_offsets = false;
};

class HeaderReader final : public JsonSax {
 public:
  explicit HeaderReader(const std::string& name) : name_(name) {}

  std::vector<Entry> take() { return std::move(entries_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool number_float(number_float_t, const string_t& text) override {
    return unexpected(fmt::format("the number {}", printable(text, 40)));
  }
  bool number_integer(number_integer_t value) override { return unexpected(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return unexpected(fmt::format("{}", value));
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max())) {
      return unexpected(fmt::format("{}", value));
    }
    add_number(static_cast<std::int64_t>(value));
    return true;
  }
  bool string(string_t& value) override {
    if (place_ == Place::kMetadata && !key_.empty()) return true;
    if (place_ != Place::kTensor || key_ != "dtype") return unexpected("a string");
    const auto type = tensor_type_from_name(value);
    if (!type) fail(fmt::format("unknown dtype \"{}\"", printable(value, 40)));
    entries_.back().tensor.type = *type;
    return true;
  }
  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      place_ = in_metadata_ ? Place::kMetadata : Place::kTensor;
      key_.clear();
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool end_object() override {
    if (place_ == Place::kTensor) check_complete();
    place_ = Place::kTop;
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::kTensor && key_ == "shape") {
      place_ = Place::kShape;
    } else if (place_ == Place::kTensor && key_ == "data_offsets") {
      place_ = Place::kOffsets;
    } else {
      return unexpected("an array");
    }
    return true;
  }
  bool end_array() override {
    if (place_ == Place::kOffsets && entries_.back().offset_count != 2) {
      fail(fmt::format("data_offsets has {} numbers, expected 2", entries_.back().offset_count));
    }
    place_ = Place::kTensor;
    return true;
  }
  bool key(string_t& value) override {
    if (place_ == Place::kTop) {
      begin_member(value);
      return true;
    }
    key_ = value;
    if (place_ == Place::kMetadata) {
      if (!metadata_keys_.insert(value).second) fail(fmt::format("duplicate JSON key \"{}\"", printable(value)));
      key_ = "value";  // any non-empty text: metadata is not kept
      return true;
    }
    Entry& entry = entries_.back();
    bool* seen = value == "dtype"          ? &entry.has_type
                 : value == "shape"        ? &entry.has_shape
                 : value == "data_offsets" ? &entry.has_offsets
                                           : nullptr;
    if (seen == nullptr) {
      fail(fmt::format("unknown key \"{}\", expected dtype, shape and data_offsets", printable(value)));
    }
    if (std::exchange(*seen, true)) fail(fmt::format("duplicate JSON key \"{}\"", value));
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& problem) override {
    fail(problem.what());
  }

 private:
  enum class Place { kStart, kTop, kTensor, kShape, kOffsets, kMetadata };

  // "FILE: tensor "x": what", or without the tensor outside of one.
  [[noreturn]] void fail(const std::string& what) const {
    std::string subject;
    if (in_metadata_) {
      subject = "__metadata__: ";
    } else if (!entries_.empty() && place_ != Place::kStart) {
      subject = fmt::format("tensor \"{}\": ", printable(entries_.back().tensor.name));
    }
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}{}", name_, subject, what));
  }

  bool unexpected(const std::string& what) const {
    switch (place_) {
      case Place::kStart:
        fail(fmt::format("safetensors header is {}, expected a JSON object", what));
      case Place::kTop:
        fail(fmt::format("header entry is {}, expected an object", what));
      case Place::kTensor:
        fail(fmt::format("{} is {}, expected {}", key_, what, key_ == "dtype" ? "a string" : "an array of integers"));
      case Place::kShape:
        fail(fmt::format("shape contains {}, expected non-negative 63-bit integers", what));
      case Place::kOffsets:
        fail(fmt::format("data_offsets contains {}, expected non-negative 63-bit integers", what));
      case Place::kMetadata:
        fail(fmt::format("contains {}, expected strings", what));
    }
    return false;
  }

  void begin_member(const std::string& member) {
    in_metadata_ = member == "__metadata__";
    if (in_metadata_) {
      if (std::exchange(has_metadata_, true)) fail("appears twice");
      return;
    }
    if (entries_.size() == kMaxTensors) {
      throw Error(ErrorKind::kBadInput, fmt::format("{}: more than {} tensors, the limit here", name_, kMaxTensors));
    }
    entries_.emplace_back();
    entries_.back().tensor.name = member;
  }

  void add_number(std::int64_t value) {
    Entry& entry = entries_.back();
    if (place_ == Place::kShape) {
      if (entry.tensor.shape.size() == kMaxRank) fail(fmt::format("shape has more than {} dimensions", kMaxRank));
      entry.tensor.shape.push_back(value);
      return;
    }
    if (entry.offset_count < 2) entry.offsets[entry.offset_count] = value;
    ++entry.offset_count;
  }

  void check_complete() const {
    const Entry& entry = entries_.back();
    if (!entry.has_type) fail("has no dtype");
    if (!entry.has_shape) fail("has no shape");
    if (!entry.has_offsets) fail("has no data_offsets");
  }

  const std::string& name_;
  std::vector<Entry> entries_;
  std::unordered_set<std::string> metadata_keys_;
  Place place_ = Place::kStart;
  std::string key_;
  bool in_metadata_ = false;
  bool has_metadata_ = false;
};

std::string_view header_text(std::span<const std::uint8_t> data, const std::string& name) {
  if (data.size() < kLengthBytes) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {} bytes is too short for a safetensors file, which begins with "
                                                  "the {}-byte length of its header",
                                                  name, data.size(), kLengthBytes));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) length |= std::uint64_t{data[i]} << (8 * i);
  if (length == 0) throw Error(ErrorKind::kBadInput, fmt::format("{}: safetensors header length is 0", name));
  if (length > data.size() - kLengthBytes) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: safetensors header length is {}, but the file has only {} bytes",
                                                  name, length, data.size()));
  }
  if (length > kMaxHeaderBytes) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: safetensors header length is {}, larger than {}, the limit here",
                                                  name, length, kMaxHeaderBytes));
  }
  const auto* text = reinterpret_cast<const char*>(data.data() + kLengthBytes);
  if (*text != '{') {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: safetensors header is not a JSON object: it begins with \"{}\"",
                                                  name, printable(std::string_view(text, 1))));
  }
  return {text, static_cast<std::size_t>(length)};
}

[[noreturn]] void fail_tensor(const std::string& name, const TensorView& tensor, const std::string& what) {
  throw Error(ErrorKind::kBadInput, fmt::format("{}: tensor \"{}\": {}", name, printable(tensor.name), what));
}

// Shape, type and offsets of one entry agree with each other and lie inside the file's data.
void check_extent(const Entry& entry, std::size_t data_bytes, const std::string& name) {
  const TensorView& tensor = entry.tensor;
  const auto [begin, end] = entry.offsets;
  std::int64_t bytes = tensor_type_bytes(tensor.type);
  for (const std::int64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      fail_tensor(name, tensor, fmt::format("shape [{}] overflows 63 bits", fmt::join(tensor.shape, ", ")));
    }
  }
  if (begin > end) fail_tensor(name, tensor, fmt::format("data_offsets [{}, {}] run backwards", begin, end));
  if (static_cast<std::uint64_t>(end) > data_bytes) {
    fail_tensor(
        name, tensor,
        fmt::format("data_offsets [{}, {}] lie beyond the {} bytes of data in the file", begin, end, data_bytes));
  }
  if (bytes != end - begin) {
    fail_tensor(
        name, tensor,
        fmt::format("{} of shape [{}] needs {} bytes, data_offsets [{}, {}] give {}", tensor_type_name(tensor.type),
                    fmt::join(tensor.shape, ", "), bytes, begin, end, end - begin));
  }
}

// The tensors cover the data exactly once.
void check_coverage(const std::vector<Entry>& entries, std::size_t data_bytes, const std::string& name) {
  std::vector<const Entry*> by_offset;
  by_offset.reserve(entries.size());
  for (const Entry& entry : entries) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->offsets[0], a->offsets[1]) < std::pair(b->offsets[0], b->offsets[1]);
  });
  std::int64_t position = 0;
  const Entry* previous = nullptr;
  for (const Entry* entry : by_offset) {
    if (entry->offsets[0] < position) {
      fail_tensor(name, entry->tensor,
                  fmt::format("data_offsets [{}, {}] overlap tensor \"{}\", which ends at {}", entry->offsets[0],
                              entry->offsets[1], printable(previous->tensor.name), position));
    }
    if (entry->offsets[0] > position) {
      fail_tensor(name, entry->tensor,
                  fmt::format("data_offsets begin at {}, leaving a hole after byte {} of the data", entry->offsets[0],
                              position));
    }
    position = entry->offsets[1];
    previous = entry;
  }
  if (static_cast<std::uint64_t>(position) != data_bytes) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: tensors end at byte {} of the data, but the file has {} bytes of it", name, position,
                            data_bytes));
  }
}

}  // namespace

std::vector<TensorView> parse_safetensors(std::span<const std::uint8_t> data, const std::string& name) {
  const std::string_view header = header_text(data, name);
  HeaderReader reader(name);
  parse_json_events(header, name, reader, {.max_depth = 8, .max_bytes = kMaxHeaderBytes});
  std::vector<Entry> entries = reader.take();

  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.tensor.name < b.tensor.name; });
  const auto twice = std::adjacent_find(entries.begin(), entries.end(),
                                        [](const Entry& a, const Entry& b) { return a.tensor.name == b.tensor.name; });
  if (twice != entries.end()) fail_tensor(name, twice->tensor, "appears twice in the header");

  const auto contents = data.subspan(kLengthBytes + header.size());
  for (const Entry& entry : entries) check_extent(entry, contents.size(), name);
  check_coverage(entries, contents.size(), name);

  std::vector<TensorView> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    entry.tensor.bytes = contents.subspan(static_cast<std::size_t>(entry.offsets[0]),
                                          static_cast<std::size_t>(entry.offsets[1] - entry.offsets[0]));
    tensors.push_back(std::move(entry.tensor));
  }
  return tensors;
}

}  // namespace fairway::formats
