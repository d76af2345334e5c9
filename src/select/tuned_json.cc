// The JSON of a tuned table: the founding documents' keys, and "entries".
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "fairway/error.h"
#include "select/tuned_table.h"

namespace fairway::select {
namespace {

using Json = nlohmann::ordered_json;

// The documents' spelling of a Python tuple: "(2, 4)", "(3,)".
std::string tuple_text(const std::vector<int>& widths) {
  return widths.size() == 1 ? fmt::format("({},)", widths.front()) : fmt::format("({})", fmt::join(widths, ", "));
}

Json config_json(const KernelConfig& c) {
  return {{"kernel_name", c.kernel_name}, {"tile_size_m", c.tile_size_m},   {"tile_size_n", c.tile_size_n},
          {"simdgroups", c.simdgroups},   {"use_fp32_acc", c.use_fp32_acc}, {"kernel_variant", c.kernel_variant}};
}

Json layer_json(const MoeLayerTraits& t) {
  Json mix = Json::array();
  for (const TupleShare& part : t.mix) {
    mix.push_back({{"bits", {part.bits.gate, part.bits.up, part.bits.down}}, {"share", part.share}});
  }
  return {{"hidden", t.hidden}, {"intermediate", t.intermediate}, {"experts", t.experts},
          {"top_k", t.top_k},   {"always_on", t.always_on},       {"codebooks", t.codebooks},
          {"mix", mix}};
}

Json entry_json(const TunedEntry& entry) {
  Json measured = Json::array();
  for (const MeasuredKernel& kernel : entry.measured) {
    Json one = config_json(kernel.config);
    one["median_ms"] = kernel.median_ms;
    one["samples_ms"] = kernel.samples_ms;
    measured.push_back(std::move(one));
  }
  return {{"tokens", entry.tokens},
          {"threads", entry.threads},
          {"layer", layer_json(entry.layer)},
          {"activations", entry.activations},
          {"best", config_json(entry.best)},
          {"default", config_json(entry.fallback)},
          {"measured", measured}};
}

// "(2, 4)" or "(3,)"; empty if the text is neither.
std::vector<int> parse_tuple(const std::string& text) {
  std::vector<int> widths;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.size() < 3 || text.front() != '(' || text.back() != ')') return {};
  for (std::size_t i = 1; i + 1 < text.size(); ++i) {
    if (!is_digit(text[i])) {
      if (text[i] != ',' && text[i] != ' ') return {};
      continue;
    }
    if (is_digit(text[i - 1])) return {};  // widths have one digit
    widths.push_back(text[i] - '0');
  }
  std::sort(widths.begin(), widths.end());
  return widths;
}

// Reading. `at` names the place for messages.
struct Reader {
  const std::string& source;

  [[noreturn]] void fail(const std::string& at, const std::string& what) const {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}: {}", source, at, what));
  }
  const Json& member(const Json& object, const char* key, const std::string& at) const {
    if (!object.is_object()) fail(at, "expected an object");
    const auto it = object.find(key);
    if (it == object.end()) fail(at, fmt::format("'{}' is missing", key));
    return *it;
  }
  int integer(const Json& object, const char* key, int low, int high, const std::string& at) const {
    const Json& value = member(object, key, at);
    if (!value.is_number_integer()) fail(at, fmt::format("'{}' is not an integer", key));
    const auto number = value.get<std::int64_t>();
    if (number < low || number > high) fail(at, fmt::format("'{}' is {}, expected {} to {}", key, number, low, high));
    return static_cast<int>(number);
  }
  double positive(const Json& value, const char* key, const std::string& at) const {
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
      fail(at, fmt::format("'{}' is not a positive number", key));
    }
    return value.get<double>();
  }
  std::string text(const Json& object, const char* key, const std::string& at) const {
    const Json& value = member(object, key, at);
    if (!value.is_string()) fail(at, fmt::format("'{}' is not a string", key));
    return value.get<std::string>();
  }
  const Json& list(const Json& object, const char* key, const std::string& at) const {
    const Json& value = member(object, key, at);
    if (!value.is_array()) fail(at, fmt::format("'{}' is not a list", key));
    return value;
  }

  static constexpr int kMost = 1 << 24;

  KernelConfig config(const Json& json, const std::string& at) const {
    KernelConfig c;
    c.kernel_name = text(json, "kernel_name", at);
    c.tile_size_m = integer(json, "tile_size_m", 0, kMost, at);
    c.tile_size_n = integer(json, "tile_size_n", 0, kMost, at);
    c.simdgroups = integer(json, "simdgroups", 0, kMost, at);
    const Json& fp32 = member(json, "use_fp32_acc", at);
    if (!fp32.is_boolean()) fail(at, "'use_fp32_acc' is not true or false");
    c.use_fp32_acc = fp32.get<bool>();
    c.kernel_variant = text(json, "kernel_variant", at);
    return c;
  }

  // A count as an object key.
  int key(const std::string& text, const std::string& at) const {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > kMost) {
      fail(at, fmt::format("'{}' is no positive integer", text));
    }
    return value;
  }

  std::map<int, int> mapping(const Json& json, const char* name) const {
    std::map<int, int> result;
    if (!json.contains(name)) return result;
    const Json& object = json[name];
    if (!object.is_object()) fail(name, "expected an object");
    for (const auto& [width, value] : object.items()) {
      result[key(width, name)] = integer(object, width.c_str(), 1, kMost, name);
    }
    return result;
  }

  // tokens -> hidden size -> widths -> kernel
  std::vector<LookupEntry> lookup(const Json& json) const {
    const std::string at = "lookup_table";
    std::vector<LookupEntry> result;
    const Json& table = member(json, "lookup_table", "file");
    if (!table.is_object()) fail(at, "expected an object");
    for (const auto& [tokens, by_hidden] : table.items()) {
      if (!by_hidden.is_object()) fail(at, fmt::format("'{}' is no object", tokens));
      for (const auto& [hidden, by_widths] : by_hidden.items()) {
        if (!by_widths.is_object()) fail(at, fmt::format("'{}' is no object", hidden));
        for (const auto& [widths, one] : by_widths.items()) {
          const std::vector<int> parsed = parse_tuple(widths);
          if (parsed.empty()) fail(at, fmt::format("'{}' is no tuple of widths", widths));
          result.push_back({key(tokens, at), key(hidden, at), parsed, config(one, fmt::format("{}.{}", at, tokens))});
        }
      }
    }
    return result;
  }

  MoeLayerTraits layer(const Json& json, const std::string& at) const {
    std::vector<TupleShare> mix;
    for (const Json& part : list(json, "mix", at)) {
      const Json& bits = list(part, "bits", at);
      if (bits.size() != 3) fail(at, "'bits' needs three widths");
      std::uint8_t width[3];
      for (std::size_t i = 0; i < 3; ++i) {
        const auto value = bits[i].is_number_integer() ? bits[i].get<std::int64_t>() : 0;
        if (value < FAIRWAY_MIN_BITS || value > FAIRWAY_MAX_BITS) {
          fail(at, fmt::format("a width is not {} to {}", FAIRWAY_MIN_BITS, FAIRWAY_MAX_BITS));
        }
        width[i] = static_cast<std::uint8_t>(value);
      }
      mix.push_back({{width[0], width[1], width[2]}, positive(member(part, "share", at), "share", at)});
    }
    try {
      return moe_traits(integer(json, "hidden", 1, kMost, at), integer(json, "intermediate", 1, kMost, at),
                        integer(json, "experts", 0, kMost, at), integer(json, "top_k", 0, kMost, at),
                        integer(json, "always_on", 0, kMost, at),
                        static_cast<std::uint8_t>(integer(json, "codebooks", 0, kernels::kAllCodebooks, at)),
                        std::move(mix));
    } catch (const Error& e) {
      fail(at, e.what());
    }
  }

  TunedEntry entry(const Json& json, const std::string& at) const {
    TunedEntry e;
    e.tokens = integer(json, "tokens", 1, kMost, at);
    e.threads = integer(json, "threads", 1, kMost, at);
    e.layer = layer(member(json, "layer", at), at + ".layer");
    e.activations = text(json, "activations", at);
    e.best = config(member(json, "best", at), at + ".best");
    e.fallback = config(member(json, "default", at), at + ".default");
    for (const Json& one : list(json, "measured", at)) {
      MeasuredKernel kernel;
      kernel.config = config(one, at + ".measured");
      kernel.median_ms = positive(member(one, "median_ms", at), "median_ms", at);
      for (const Json& sample : list(one, "samples_ms", at)) {
        kernel.samples_ms.push_back(positive(sample, "samples_ms", at));
      }
      e.measured.push_back(std::move(kernel));
    }
    for (const KernelConfig* c : {&e.best, &e.fallback}) {
      try {
        candidate_of(*c);
      } catch (const Error& error) {
        fail(at, error.what());
      }
    }
    return e;
  }
};

// What the documents call mappings: for a width, the tile of the kernel chosen for the most tokens of layers that have
// only that width; what was read from a file otherwise.
void add_mappings(const TunedTable& table, Json& json) {
  std::map<int, int> tiles = table.tile_size_mapping, workers = table.simdgroup_mapping;
  for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
    const TunedEntry* widest = nullptr;
    for (const TunedEntry& entry : table.entries) {
      if (entry.layer.widths() == std::vector<int>{bits} && (widest == nullptr || entry.tokens > widest->tokens)) {
        widest = &entry;
      }
    }
    if (widest == nullptr) continue;
    tiles[bits] = widest->best.tile_size_n;
    workers[bits] = widest->best.simdgroups;
  }
  const auto object = [](const std::map<int, int>& mapping) {
    Json result = Json::object();
    for (const auto& [bits, value] : mapping) result[std::to_string(bits)] = value;
    return result;
  };
  json["tile_size_mapping"] = object(tiles);
  json["simdgroup_mapping"] = object(workers);
}

void read_adaptation(const Reader& read, const Json& json, TunedTable& table) {
  const Json& adapts = read.member(json, "adaptation_enabled", "file");
  if (!adapts.is_boolean()) read.fail("file", "'adaptation_enabled' is not true or false");
  table.adaptation_enabled = adapts.get<bool>();
  table.adaptation_history_len = read.integer(json, "adaptation_history_len", 1, Reader::kMost, "file");
  table.benchmark_count = read.integer(json, "benchmark_count", 0, Reader::kMost, "file");
}

}  // namespace

std::vector<LookupEntry> TunedTable::lookup_entries() const {
  std::vector<LookupEntry> all = lookup;
  for (const TunedEntry& entry : entries) {
    all.push_back({entry.tokens, entry.layer.hidden, entry.layer.widths(), entry.best});
  }
  return all;
}

std::string TunedTable::to_json() const {
  Json json = {{"schema_version", kSchema},
               {"device_name", device.device_name},
               {"device_family", device.device_family},
               {"microcode", device.microcode},
               {"processors", device.processors},
               {"registry_hash", device.registry_hash},
               {"revision", revision},
               {"date", date}};
  add_mappings(*this, json);
  Json by_call = Json::object();
  for (const LookupEntry& entry : lookup_entries()) {
    by_call[std::to_string(entry.tokens)][std::to_string(entry.hidden)][tuple_text(entry.widths)] =
        config_json(entry.config);
  }
  json["lookup_table"] = std::move(by_call);
  json["adaptation_enabled"] = adaptation_enabled;
  json["adaptation_history_len"] = adaptation_history_len;
  json["benchmark_count"] = benchmark_count;
  Json all = Json::array();
  for (const TunedEntry& entry : entries) all.push_back(entry_json(entry));
  json["entries"] = std::move(all);
  return json.dump(1);
}

TunedTable TunedTable::from_json(const std::string& text, const std::string& source) {
  const Reader read{source};
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) read.fail("file", "not JSON");
  TunedTable table;
  table.tile_size_mapping = read.mapping(json, "tile_size_mapping");
  table.simdgroup_mapping = read.mapping(json, "simdgroup_mapping");
  const bool documents_format = json.is_object() && !json.contains("schema_version") && json.contains("lookup_table");
  if (documents_format) {
    table.device.device_name = read.text(json, "device_name", "file");
    table.device.device_family = read.text(json, "device_family", "file");
    table.lookup = read.lookup(json);
    read_adaptation(read, json, table);
    return table;
  }
  const int schema = read.integer(json, "schema_version", 0, Reader::kMost, "file");
  if (schema != kSchema) read.fail("file", fmt::format("schema version {}, expected {}", schema, kSchema));
  table.device = {read.text(json, "device_name", "file"), read.text(json, "device_family", "file"),
                  read.text(json, "microcode", "file"), read.integer(json, "processors", 1, Reader::kMost, "file"),
                  read.text(json, "registry_hash", "file")};
  table.revision = read.text(json, "revision", "file");
  table.date = read.text(json, "date", "file");
  read_adaptation(read, json, table);
  const Json& entries = read.list(json, "entries", "file");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    table.entries.push_back(read.entry(entries[i], fmt::format("entries[{}]", i)));
  }
  return table;
}

}  // namespace fairway::select
