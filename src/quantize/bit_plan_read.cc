// Reading bit plans, which people edit: every complaint says file, line, key and value.
#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/json.h"
#include "formats/utf8.h"
#include "formats/yaml_error.h"
#include "quantize/bit_plan.h"
#include "quantize/plan_layout.h"
#include "quantize/sensitivity.h"

namespace fairway::quantize {
namespace {

using formats::printable;

constexpr const char* kSchema = "fairway-bit-plan-1";
// A plan of 61 layers with 256 experts, each on a line of its own, has 0.5 MB; a parse tree takes hundreds of times
// that.
constexpr std::size_t kMaxFileBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxLinears = 200'000;               // 61 layers of 384 experts have 70,000
constexpr std::int64_t kMaxBytes = std::int64_t{1} << 53;  // what a number in any YAML reader holds

class PlanReader {
 public:
  explicit PlanReader(const std::string& source) : source_(source) {}

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw formats::yaml_error(source_, mark, what);
  }

  BitPlan read(const YAML::Node& root) {
    check_map(root, "the plan");
    const std::set<std::string_view> known = {"schema", "model", "codebook", "method", "budget", "layers", "other"};
    std::map<std::string, YAML::Node> keys;
    for (const auto& pair : root) {
      const std::string name = key(pair.first, "the plan");
      if (!known.contains(name)) {
        fail(pair.first.Mark(), fmt::format("unknown key '{}'; known are {}", printable(name), fmt::join(known, ", ")));
      }
      if (!keys.emplace(name, pair.second).second) fail(pair.first.Mark(), fmt::format("the key '{}' twice", name));
    }
    for (const char* name : {"schema", "model", "codebook", "method", "layers"}) {
      if (!keys.contains(name)) fail(root.Mark(), fmt::format("the key '{}' is missing", name));
    }
    if (text(keys["schema"], "schema") != kSchema) {
      fail(keys["schema"].Mark(),
           fmt::format("schema is '{}', expected {}", printable(keys["schema"].Scalar()), kSchema));
    }
    plan_.model = text(keys["model"], "model");
    plan_.method = text(keys["method"], "method");
    plan_.codebook = codebook(keys["codebook"]);
    if (keys.contains("budget")) read_budget(keys["budget"]);
    read_layers(keys["layers"]);
    if (keys.contains("other")) read_leaves(keys["other"], "other", "");
    if (plan_.linears.empty()) fail(root.Mark(), "no matrix is planned");
    return std::move(plan_);
  }

  // The plan's matrices are exactly these; puts them in this order.
  void require(BitPlan& plan, std::span<const std::string> expected) const {
    const std::set<std::string_view> known(expected.begin(), expected.end());
    for (const PlannedLinear& linear : plan.linears) {
      if (known.contains(linear.prefix)) continue;
      fail(marks_.at(linear.prefix), fmt::format("the model has no matrix '{}' to code", printable(linear.prefix)));
    }
    std::unordered_map<std::string_view, int> bits;
    for (const PlannedLinear& linear : plan.linears) bits.emplace(linear.prefix, linear.bits);
    std::vector<PlannedLinear> ordered;
    for (const std::string& prefix : expected) {
      const auto found = bits.find(prefix);
      if (found == bits.end()) {
        fail(YAML::Mark::null_mark(), fmt::format("no width for the model's matrix '{}'", printable(prefix)));
      }
      ordered.push_back({prefix, found->second});
    }
    plan.linears = std::move(ordered);
  }

 private:
  void check_map(const YAML::Node& node, const std::string& where) const {
    if (!node.IsMap()) fail(node.Mark(), fmt::format("{} is not a map of keys", where));
  }

  std::string key(const YAML::Node& node, const std::string& where) const {
    if (!node.IsScalar()) fail(node.Mark(), fmt::format("a key of {} is not a word", where));
    return scalar(node, "a key of " + where);
  }

  std::string text(const YAML::Node& node, const std::string& key) const {
    if (!node.IsScalar()) fail(node.Mark(), fmt::format("'{}' is not a text", key));
    return scalar(node, "'" + key + "'");
  }

  // yaml-cpp makes single bytes of the escapes \N and \_, which are no UTF-8.
  std::string scalar(const YAML::Node& node, const std::string& what) const {
    const std::string& text = node.Scalar();
    if (formats::find_invalid_utf8(text) == std::string::npos) return text;
    fail(node.Mark(),
         fmt::format("{} is '{}', which is not UTF-8 text; write the characters of the escapes \\N and \\_ "
                     "themselves, or \\x85 and \\xa0",
                     what, printable(text, 60)));
  }

  codec::Codebook codebook(const YAML::Node& node) const {
    const std::string name = text(node, "codebook");
    if (const auto codebook = codec::find_codebook(name)) return *codebook;
    fail(node.Mark(), fmt::format("codebook is '{}', expected mul1, mcg or 3inst", printable(name)));
  }

  // The whole scalar as a number of type T within [low, high].
  template <typename T>
  T number(const YAML::Node& node, const std::string& where, T low, T high) const {
    T value{};
    bool good = node.IsScalar();
    if (good) {
      const std::string& text = node.Scalar();
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      good = error == std::errc() && end == text.data() + text.size() && value >= low && value <= high;
    }
    if (good) return value;
    fail(node.Mark(),
         fmt::format("{} is {}, expected a number from {} to {}", where,
                     node.IsScalar() ? "'" + printable(node.Scalar(), 60) + "'" : "no single value", low, high));
  }

  int width(const YAML::Node& node, const std::string& where) const { return number<int>(node, where, 1, kMaxBits); }

  void read_budget(const YAML::Node& node) {
    check_map(node, "budget");
    PlanBudget& b = plan_.budget;
    const std::map<std::string, double*> reals = {{"asked_bits", &b.asked_bits},
                                                  {"mean_bits", &b.mean_bits},
                                                  {"predicted_loss", &b.predicted_loss},
                                                  {"uncapped_loss", &b.uncapped_loss},
                                                  {"loss_bound", &b.loss_bound}};
    const std::map<std::string, std::int64_t*> sizes = {{"asked_bytes", &b.asked_bytes},
                                                        {"total_bytes", &b.total_bytes}};
    std::set<std::string> seen;
    for (const auto& pair : node) {
      const std::string name = key(pair.first, "budget");
      if (!seen.insert(name).second) fail(pair.first.Mark(), fmt::format("budget has the key '{}' twice", name));
      if (const auto real = reals.find(name); real != reals.end()) {
        *real->second = number<double>(pair.second, "budget: " + name, 0, 1e300);
      } else if (const auto size = sizes.find(name); size != sizes.end()) {
        *size->second = number<std::int64_t>(pair.second, "budget: " + name, 0, kMaxBytes);
      } else {
        fail(pair.first.Mark(), fmt::format("budget has the unknown key '{}'", printable(name)));
      }
    }
  }

  void read_layers(const YAML::Node& node) {
    check_map(node, "layers");
    std::set<int> seen;
    for (const auto& pair : node) {
      const std::string name = key(pair.first, "layers");
      const int layer = plan_index(name);
      if (layer < 0) fail(pair.first.Mark(), fmt::format("layers: '{}' is no number of a layer", printable(name, 60)));
      if (!seen.insert(layer).second) fail(pair.first.Mark(), fmt::format("layer {} twice", layer));
      const std::string where = fmt::format("layer {}", layer), stem = fmt::format("{}{}.", kLayerStem, layer);
      check_map(pair.second, where);
      for (const auto& module : pair.second) {
        const std::string module_name = key(module.first, where);
        if (module_name == kExpertModule) {
          read_experts(module.second, fmt::format("{}: {}", where, kExpertModule), stem);
        } else {
          read_leaves(module.second, fmt::format("{}: {}", where, printable(module_name)), stem + module_name + ".");
        }
      }
    }
  }

  // {q_proj: 4, ...}
  void read_leaves(const YAML::Node& node, const std::string& where, const std::string& stem) {
    check_map(node, where);
    for (const auto& pair : node) {
      const std::string leaf = key(pair.first, where);
      add(pair.first.Mark(), stem + leaf, width(pair.second, where + ": " + printable(leaf)));
    }
  }

  // {"0-3,7": [6, 2, 3], ...}; experts are added in the order of their numbers.
  void read_experts(const YAML::Node& node, const std::string& where, const std::string& stem) {
    check_map(node, where);
    struct Expert {
      YAML::Mark mark;
      std::array<int, 3> bits;
    };
    std::map<int, Expert> experts;
    for (const auto& pair : node) {
      const std::string runs = key(pair.first, where);
      const std::string here = where + ": " + printable(runs, 60);
      if (!pair.second.IsSequence() || pair.second.size() != 3) {
        fail(pair.first.Mark(), fmt::format("{} is not a list of three widths, gate, up and down", here));
      }
      std::array<int, 3> bits{};
      for (std::size_t p = 0; p < 3; ++p) bits[p] = width(pair.second[p], here);
      const auto parsed = parse_runs(runs);
      if (!parsed) fail(pair.first.Mark(), here + " is no list of experts such as 0-3,7");
      for (const auto& [first, last] : *parsed) {
        for (int e = first; e <= last; ++e) {
          if (!experts.emplace(e, Expert{pair.first.Mark(), bits}).second) {
            fail(pair.first.Mark(), fmt::format("{}: expert {} twice", where, e));
          }
        }
      }
    }
    for (const auto& [number, expert] : experts) {
      for (std::size_t p = 0; p < 3; ++p) {
        add(expert.mark, fmt::format("{}{}.{}.{}", stem, kExpertModule, number, kProjections[p]), expert.bits[p]);
      }
    }
  }

  void add(const YAML::Mark& mark, const std::string& prefix, int bits) {
    if (plan_.linears.size() == kMaxLinears) fail(mark, fmt::format("more than {} matrices", kMaxLinears));
    if (!marks_.emplace(prefix, mark).second) {
      fail(mark, fmt::format("the matrix '{}' is planned twice", printable(prefix)));
    }
    plan_.linears.push_back({prefix, bits});
  }

  const std::string& source_;
  BitPlan plan_;
  std::unordered_map<std::string, YAML::Mark> marks_;  // where each matrix was planned
};

BitPlan parse(PlanReader& reader, const std::string& text) {
  if (text.size() > kMaxFileBytes) {
    reader.fail(YAML::Mark::null_mark(),
                fmt::format("{} bytes, expected a plan of at most {}", text.size(), kMaxFileBytes));
  }
  // Zero bytes would make the YAML reader take the file for UTF-16.
  const std::size_t bad = std::min(formats::find_invalid_utf8(text), text.find('\0'));
  if (bad != std::string::npos) {
    reader.fail(YAML::Mark::null_mark(), fmt::format("byte {} is not UTF-8 text", bad));
  }
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& e) {
    reader.fail(e.mark, fmt::format("not YAML: {}", printable(e.msg)));
  }
  return reader.read(root);
}

}  // namespace

BitPlan parse_bit_plan(const std::string& text, const std::string& source) {
  PlanReader reader(source);
  return parse(reader, text);
}

BitPlan parse_bit_plan(const std::string& text, const std::string& source, std::span<const std::string> expected) {
  PlanReader reader(source);
  BitPlan plan = parse(reader, text);
  reader.require(plan, expected);
  return plan;
}

}  // namespace fairway::quantize
