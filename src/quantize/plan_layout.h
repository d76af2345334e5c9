// Where a module key stands in a plan file, and how the file spells numbers of layers and experts.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fairway::quantize {

inline constexpr std::string_view kLayerStem = "model.layers.";
inline constexpr std::string_view kExpertModule = "mlp.experts";
inline constexpr std::string_view kProjections[] = {"gate_proj", "up_proj", "down_proj"};
constexpr int kMaxPlanIndex = 65535;  // of layers and experts in any file

struct PlanPlace {
  int layer = -1;              // -1: outside of layers, `leaf` is the whole key
  int expert = -1;             // of kExpertModule
  std::size_t projection = 0;  // of an expert, index into kProjections
  std::string module;          // "self_attn", "mlp", "mlp.shared_experts"; empty outside of layers
  std::string leaf;            // "q_proj"
};

// Every key has a place; what does not look like a layer's module stands outside of layers.
PlanPlace plan_place(const std::string& prefix);

// A number in its one decimal spelling, 0 to kMaxPlanIndex, or -1.
int plan_index(std::string_view text);

// "0-3,7" of ascending numbers, and back: first and last of each run. Nothing if the text is no such list; runs may
// overlap and need not ascend.
std::string runs_text(const std::vector<int>& numbers);
std::optional<std::vector<std::pair<int, int>>> parse_runs(std::string_view text);

}  // namespace fairway::quantize
