// Writing bit plans.
#include "quantize/bit_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "codec/packing.h"
#include "quantize/plan_layout.h"

namespace fairway::quantize {
namespace {

// A double-quoted JSON string is one in YAML too, once the one control character that JSON leaves alone is escaped.
std::string quoted(const std::string& text) {
  std::string json = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  for (std::size_t at = 0; (at = json.find('\x7f', at)) != std::string::npos;) json.replace(at, 1, "\\x7f");
  return json;
}

// A key as people write it, if YAML takes that for the same text.
std::string key_text(const std::string& key) {
  const bool word = std::all_of(key.begin(), key.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
  });
  if (!word || key.empty() || std::isalpha(static_cast<unsigned char>(key.front())) == 0) return quoted(key);
  return key == "null" || key == "Null" || key == "NULL" ? quoted(key) : key;
}

// YAML takes a key without a question mark only if it and its colon are within 1024 characters (1.2.2, 7.4.2
// and 8.2.2). Bytes are counted here, which are at least as many.
constexpr std::size_t kMaxPlainKey = 1000;

// A pair of a block of keys; `indent` blanks stand before it.
std::string block_pair(int indent, const std::string& key, const std::string& value) {
  if (key.size() <= kMaxPlainKey) return fmt::format("{:{}}{}: {}\n", "", indent, key, value);
  return fmt::format("{:{}}? {}\n{:{}}: {}\n", "", indent, key, "", indent, value);
}

// A pair between braces.
std::string flow_pair(const std::string& key, int value) {
  return fmt::format("{}{}: {}", key.size() <= kMaxPlainKey ? "" : "? ", key, value);
}

using Tuple = std::array<int, 3>;

struct ModuleWidths {
  std::string name;
  std::vector<std::pair<std::string, int>> leaves;
  std::map<int, Tuple> experts;  // by number; 0: not planned

  bool incomplete(int expert) const {
    const auto found = experts.find(expert);
    return found != experts.end() && std::find(found->second.begin(), found->second.end(), 0) != found->second.end();
  }
};

struct LayerWidths {
  int layer = -1;
  std::vector<ModuleWidths> modules;

  ModuleWidths& module(const std::string& name) {
    for (ModuleWidths& m : modules) {
      if (m.name == name) return m;
    }
    modules.push_back({name, {}, {}});
    return modules.back();
  }
};

std::string leaves_text(const std::vector<std::pair<std::string, int>>& leaves) {
  std::string text;
  for (const auto& [leaf, bits] : leaves) {
    text += (text.empty() ? "" : ", ") + flow_pair(key_text(leaf), bits);
  }
  return "{" + text + "}";
}

// Tuples in the order of the experts that have them first.
std::string experts_text(const std::map<int, Tuple>& experts) {
  std::vector<std::pair<Tuple, std::vector<int>>> by_tuple;
  for (const auto& expert : experts) {
    const Tuple& tuple = expert.second;
    auto found = std::find_if(by_tuple.begin(), by_tuple.end(), [&](const auto& e) { return e.first == tuple; });
    if (found == by_tuple.end()) found = by_tuple.insert(found, {tuple, {}});
    found->second.push_back(expert.first);
  }
  std::string text;
  for (const auto& [tuple, numbers] : by_tuple) {
    text += block_pair(6, '"' + runs_text(numbers) + '"', fmt::format("[{}]", fmt::join(tuple, ", ")));
  }
  return text;
}

std::string budget_text(const PlanBudget& b) {
  return fmt::format(
      "budget:\n  asked_bits: {}\n  asked_bytes: {}\n  mean_bits: {}\n  total_bytes: {}\n  predicted_loss: {}\n"
      "  uncapped_loss: {}\n  loss_bound: {}\n",
      b.asked_bits, b.asked_bytes, b.mean_bits, b.total_bytes, b.predicted_loss, b.uncapped_loss, b.loss_bound);
}

// The document's order: layers and modules as they come first, then what stands outside of layers.
class PlanSorter {
 public:
  void add(const PlannedLinear& linear) {
    const PlanPlace place = plan_place(linear.prefix);
    if (place.layer < 0) {
      other_.emplace_back(linear.prefix, linear.bits);
      return;
    }
    LayerWidths& layer = layer_of(place.layer);
    if (place.expert < 0) {
      layer.module(place.module).leaves.emplace_back(place.leaf, linear.bits);
      return;
    }
    auto& experts = layer.module(std::string(kExpertModule)).experts;
    experts.try_emplace(place.expert, Tuple{}).first->second[place.projection] = linear.bits;
  }

  // An expert without all three widths cannot stand in a tuple; its matrices are modules like others.
  void split_incomplete() {
    for (LayerWidths& layer : layers_) {
      const ModuleWidths experts = layer.module(std::string(kExpertModule));
      for (const auto& [number, tuple] : experts.experts) {
        if (!experts.incomplete(number)) continue;
        ModuleWidths& single = layer.module(fmt::format("{}.{}", kExpertModule, number));
        for (std::size_t p = 0; p < 3; ++p) {
          if (tuple[p] != 0) single.leaves.emplace_back(kProjections[p], tuple[p]);
        }
        layer.module(std::string(kExpertModule)).experts.erase(number);
      }
    }
  }

  std::string text() const {
    std::string text = layers_.empty() ? "layers: {}\n" : "layers:\n";
    for (const LayerWidths& layer : layers_) {
      text += fmt::format("  {}:\n", layer.layer);
      for (const ModuleWidths& module : layer.modules) {
        if (!module.experts.empty()) {
          text += fmt::format("    {}:  # experts: [gate, up, down]\n{}", kExpertModule, experts_text(module.experts));
        } else if (!module.leaves.empty()) {
          text += block_pair(4, key_text(module.name), leaves_text(module.leaves));
        }
      }
    }
    return other_.empty() ? text : text + "other: " + leaves_text(other_) + "\n";
  }

 private:
  LayerWidths& layer_of(int number) {
    const auto [found, added] = index_.try_emplace(number, layers_.size());
    if (added) layers_.push_back({number, {}});
    return layers_[found->second];
  }

  std::vector<LayerWidths> layers_;
  std::map<int, std::size_t> index_;
  std::vector<std::pair<std::string, int>> other_;
};

}  // namespace

std::string bit_plan_text(const BitPlan& plan) {
  PlanSorter sorter;
  for (const PlannedLinear& linear : plan.linears) sorter.add(linear);
  sorter.split_incomplete();
  return "# Bits per weight of every matrix, a plan of `fairway quantize`. `layers` and `other` are what counts;\n"
         "# `budget` tells how they came about. Losses are predicted, in nats per token.\n" +
         fmt::format("schema: fairway-bit-plan-1\nmodel: {}\ncodebook: {}\nmethod: {}\n", quoted(plan.model),
                     codec::codebook_name(plan.codebook), quoted(plan.method)) +
         budget_text(plan.budget) + sorter.text();
}

}  // namespace fairway::quantize
