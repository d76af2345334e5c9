// Uniform widths and the rule of the reference implementation.
#include "quantize/group_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "fairway/error.h"

namespace fairway::quantize {
namespace {

using formats::LinearRole;

// What the members of a group have in common.
std::string group_key(const LinearSensitivity& linear) {
  const std::string_view prefix = linear.prefix;
  const std::size_t dot = prefix.rfind('.') + 1;  // 0 if there is none
  const std::string_view module = prefix.substr(0, dot), leaf = prefix.substr(dot);
  if (linear.role == LinearRole::kExpert) return fmt::format("{}.experts", linear.layer);
  if (linear.role == LinearRole::kAttention && (leaf == "q_proj" || leaf == "k_proj" || leaf == "v_proj")) {
    return fmt::format("{}qkv", module);
  }
  const bool mlp = linear.role == LinearRole::kDenseMlp || linear.role == LinearRole::kSharedExpert;
  if (mlp && (leaf == "gate_proj" || leaf == "up_proj")) return fmt::format("{}gate+up", module);
  return linear.prefix;
}

// A base per kind of block plus the extra bits that the reference's option for higher quality would give it: attention
// 2 + 2, shared experts 1 + 2, leading dense MLPs 1 + 1, routed experts 0 + 0. Others have no say.
int priority_of(LinearRole role) {
  if (role == LinearRole::kAttention) return 4;
  if (role == LinearRole::kSharedExpert) return 3;
  if (role == LinearRole::kDenseMlp) return 2;
  return 0;
}

class GroupRule {
 public:
  GroupRule(const std::vector<LinearSensitivity>& linears, const std::vector<std::size_t>& budgeted,
            std::int64_t budget_bits)
      : widths_(linears.size(), 0), rest_(budget_bits) {
    std::int64_t weights = 0;
    for (const std::size_t i : budgeted) weights += linears[i].weights;
    const std::int64_t start = weights > 0 ? std::min<std::int64_t>(budget_bits / weights, kMaxBits) : kMaxBits;
    if (start < 1) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("{} bits of codes for {} weights: the least is one bit for each", budget_bits, weights));
    }
    for (const std::size_t i : budgeted) widths_[i] = static_cast<int>(start);
    rest_ -= start * weights;
  }

  bool raise(const WidthGroup& group) {
    int& width = widths_[group.members.front()];
    if (width == kMaxBits || group.weights > rest_) return false;
    const int raised = width + 1;
    for (const std::size_t i : group.members) widths_[i] = raised;
    rest_ -= group.weights;
    return true;
  }

  std::vector<int> take() { return std::move(widths_); }

 private:
  std::vector<int> widths_;
  std::int64_t rest_;
};

int layer_count(const std::vector<LinearSensitivity>& linears) {
  int last = -1;
  for (const LinearSensitivity& linear : linears) last = std::max(last, linear.layer);
  return last + 1;
}

}  // namespace

std::vector<WidthGroup> width_groups(const std::vector<LinearSensitivity>& linears,
                                     const std::vector<std::size_t>& budgeted) {
  std::vector<WidthGroup> groups;
  std::map<std::string, std::size_t> by_key;
  for (const std::size_t i : budgeted) {
    const auto [found, added] = by_key.try_emplace(group_key(linears[i]), groups.size());
    if (added) groups.push_back({{}, 0, priority_of(linears[i].role), linears[i].layer});
    WidthGroup& group = groups[found->second];
    group.members.push_back(i);
    group.weights += linears[i].weights;
  }
  return groups;
}

std::vector<int> allocate_uniform(const std::vector<LinearSensitivity>& linears,
                                  const std::vector<std::size_t>& budgeted, std::int64_t budget_bits) {
  GroupRule rule(linears, budgeted, budget_bits);
  for (const WidthGroup& group : width_groups(linears, budgeted)) rule.raise(group);
  return rule.take();
}

std::vector<int> allocate_reference(const std::vector<LinearSensitivity>& linears,
                                    const std::vector<std::size_t>& budgeted, std::int64_t budget_bits) {
  GroupRule rule(linears, budgeted, budget_bits);
  std::vector<WidthGroup> groups = width_groups(linears, budgeted);
  const int layers = layer_count(linears);
  const auto rank = [&](const WidthGroup& group) {
    const int distance = group.layer < 0 ? layers : std::min(group.layer, layers - 1 - group.layer);
    return std::tuple(-group.priority, distance, group.layer);
  };
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const WidthGroup& a, const WidthGroup& b) { return rank(a) < rank(b); });
  for (bool raised = true; raised;) {
    raised = false;
    for (const WidthGroup& group : groups) raised = rule.raise(group) || raised;
  }
  return rule.take();
}

}  // namespace fairway::quantize
