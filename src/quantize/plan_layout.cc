// Module keys and lists of experts, in both directions.
#include "quantize/plan_layout.h"

#include <fmt/format.h>

#include <charconv>

namespace fairway::quantize {

PlanPlace plan_place(const std::string& prefix) {
  PlanPlace place{.module = {}, .leaf = prefix};
  const std::string_view key = prefix;
  if (!key.starts_with(kLayerStem)) return place;
  const std::size_t dot = key.find('.', kLayerStem.size()), last = key.rfind('.');
  if (dot == std::string_view::npos || last <= dot + 1 || last + 1 == key.size()) return place;
  const int layer = plan_index(key.substr(kLayerStem.size(), dot - kLayerStem.size()));
  const std::string_view module = key.substr(dot + 1, last - dot - 1);
  if (layer < 0 || module == kExpertModule) return place;
  place.layer = layer;
  place.module = module;
  place.leaf = key.substr(last + 1);
  if (!module.starts_with(std::string(kExpertModule) + ".")) return place;
  while (place.projection < std::size(kProjections) && kProjections[place.projection] != place.leaf) ++place.projection;
  if (place.projection < std::size(kProjections)) place.expert = plan_index(module.substr(kExpertModule.size() + 1));
  return place;
}

int plan_index(std::string_view text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  const bool plain = text.size() == 1 || (!text.empty() && text.front() != '0');
  return whole && plain && value >= 0 && value <= kMaxPlanIndex ? value : -1;
}

std::string runs_text(const std::vector<int>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[i]);
    if (last > i) text += fmt::format("-{}", numbers[last]);
    i = last + 1;
  }
  return text;
}

std::optional<std::vector<std::pair<int, int>>> parse_runs(std::string_view text) {
  std::vector<std::pair<int, int>> runs;
  for (bool more = true; more;) {
    const std::size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    more = comma != std::string_view::npos;
    text.remove_prefix(more ? comma + 1 : text.size());
    const std::size_t dash = part.find('-');
    const int first = plan_index(part.substr(0, dash));
    const int last = dash == std::string_view::npos ? first : plan_index(part.substr(dash + 1));
    if (first < 0 || last < first) return std::nullopt;
    runs.emplace_back(first, last);
  }
  return runs;
}

}  // namespace fairway::quantize
