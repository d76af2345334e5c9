// Summaries of bit plans.
#include "quantize/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "codec/packing.h"
#include "fairway/error.h"
#include "quantize/plan_layout.h"

namespace fairway::quantize {
namespace {

using formats::LinearRole;
using Json = nlohmann::ordered_json;

// The sensitivities of the plan's matrices, in the plan's order.
std::vector<const LinearSensitivity*> matching(const BitPlan& plan, const ModelSensitivity& sensitivity) {
  std::unordered_map<std::string, const LinearSensitivity*> by_prefix;
  for (const LinearSensitivity& linear : sensitivity.linears) by_prefix.emplace(linear.prefix, &linear);
  std::vector<const LinearSensitivity*> matched;
  for (const PlannedLinear& linear : plan.linears) {
    const auto found = by_prefix.find(linear.prefix);
    if (found == by_prefix.end()) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("plan of {}: no sensitivity of '{}' is known, or it is planned twice", plan.model,
                              linear.prefix));
    }
    matched.push_back(found->second);
    by_prefix.erase(found);
  }
  if (!by_prefix.empty()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("plan of {}: no width for '{}'", plan.model, by_prefix.begin()->first));
  }
  return matched;
}

// Sums over one row of the table.
struct Row {
  std::int64_t weights = 0, code_bits = 0, side_bytes = 0;
  double loss = 0;
  std::vector<std::pair<std::string, int>> widths;  // by name
  std::map<int, std::array<int, 3>> experts;

  void add(const LinearSensitivity& linear, int bits) {
    weights += linear.weights;
    code_bits += linear.weights * bits;
    side_bytes += linear.side_bytes;
    loss += linear.loss[static_cast<std::size_t>(bits)];
  }
  double mean_bits() const { return static_cast<double>(code_bits) / static_cast<double>(weights); }
  double megabytes() const { return (static_cast<double>(code_bits) / 8 + static_cast<double>(side_bytes)) / 1e6; }
};

// "gate" of "gate_proj", "kv_a_with_mqa" of "kv_a_proj_with_mqa".
std::string short_name(std::string leaf) {
  const std::size_t at = leaf.find("_proj");
  return at == std::string::npos ? leaf : leaf.erase(at, 5);
}

// "20x (2,2,3), 12x (6,2,3)", the most frequent first; else "q 4, k 5".
std::string widths_text(const Row& row) {
  std::vector<std::string> parts;
  for (const auto& [name, bits] : row.widths) parts.push_back(fmt::format("{} {}", name, bits));
  std::map<std::array<int, 3>, int> counts;
  for (const auto& [number, tuple] : row.experts) ++counts[tuple];
  std::vector<std::pair<int, std::array<int, 3>>> order;
  order.reserve(counts.size());
  for (const auto& [tuple, count] : counts) order.emplace_back(-count, tuple);
  std::sort(order.begin(), order.end());
  for (const auto& [count, tuple] : order) parts.push_back(fmt::format("{}x ({})", -count, fmt::join(tuple, ",")));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string row_text(const std::string& layer, const std::string& role, const Row& row, double total_loss) {
  const std::string widths = widths_text(row);
  return fmt::format("{:>5}  {:<13}  {:>5.2f}  {:>9.3f}  {:>6.2f} %{}{}\n", layer, role, row.mean_bits(),
                     row.megabytes(), 100 * row.loss / total_loss, widths.empty() ? "" : "  ", widths);
}

std::string totals_text(const BitPlan& plan, const ModelSensitivity& sensitivity, const Row& total) {
  const double megabytes = total.megabytes() + static_cast<double>(sensitivity.fixed_bytes) / 1e6;
  std::string text =
      fmt::format("{:.3f} MB in all, {:.3f} of it tensors kept as they are; predicted loss {:.6g} nats per token\n",
                  megabytes, static_cast<double>(sensitivity.fixed_bytes) / 1e6, total.loss);
  const PlanBudget& b = plan.budget;
  if (b.asked_bits > 0) text += fmt::format("{:.4f} bits per weight of {} asked for\n", b.mean_bits, b.asked_bits);
  if (b.asked_bytes > 0) text += fmt::format("{} bytes of {} asked for\n", b.total_bytes, b.asked_bytes);
  if (b.loss_bound > 0) {
    const auto above = [&](double loss) { return 100 * (loss - b.loss_bound) / b.loss_bound; };
    text += fmt::format(
        "predicted loss is {:.2g} % above a bound that no plan of this budget is below; {:.2g} % with any number of "
        "tuples per layer\n",
        above(b.predicted_loss), above(b.uncapped_loss));
  }
  return text;
}

}  // namespace

std::string plan_table(const BitPlan& plan, const ModelSensitivity& sensitivity) {
  const std::vector<const LinearSensitivity*> linears = matching(plan, sensitivity);
  std::map<std::pair<int, LinearRole>, Row> rows;
  Row total;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const LinearSensitivity& linear = *linears[i];
    const int bits = plan.linears[i].bits;
    // What stands outside of the layers comes last.
    Row& row = rows[{linear.layer < 0 ? kMaxPlanIndex + 1 : linear.layer, linear.role}];
    row.add(linear, bits);
    total.add(linear, bits);
    const PlanPlace place = plan_place(linear.prefix);
    if (place.expert >= 0) {
      row.experts[place.expert][place.projection] = bits;
    } else {
      row.widths.emplace_back(short_name(place.leaf), bits);
    }
  }
  std::string text = fmt::format("{:>5}  {:<13}  {:>5}  {:>9}  {:>8}  {}\n", "layer", "role", "bits", "MB", "loss",
                                 "widths (experts: gate,up,down)");
  for (const auto& [key, row] : rows) {
    text += row_text(key.first > kMaxPlanIndex ? "" : std::to_string(key.first), formats::linear_role_name(key.second),
                     row, total.loss);
  }
  return text + row_text("all", "", total, total.loss) + totals_text(plan, sensitivity, total);
}

Json plan_json(const BitPlan& plan, const ModelSensitivity* sensitivity) {
  std::vector<const LinearSensitivity*> known;
  if (sensitivity != nullptr) known = matching(plan, *sensitivity);
  Json linears = Json::array();
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    const PlannedLinear& linear = plan.linears[i];
    const PlanPlace place = plan_place(linear.prefix);
    Json json = {{"prefix", linear.prefix},
                 {"layer", place.layer},
                 {"module", place.expert >= 0 ? std::string(kExpertModule) : place.module},
                 {"expert", place.expert},
                 {"name", place.leaf},
                 {"bits", linear.bits}};
    if (sensitivity != nullptr) {
      json["role"] = formats::linear_role_name(known[i]->role);
      json["weights"] = known[i]->weights;
      json["bytes"] = known[i]->weights / 8 * linear.bits + known[i]->side_bytes;
      json["loss"] = known[i]->loss[static_cast<std::size_t>(linear.bits)];
    }
    linears.push_back(std::move(json));
  }
  const PlanBudget& b = plan.budget;
  return {{"schema", "fairway-bit-plan-1"},
          {"model", plan.model},
          {"codebook", codec::codebook_name(plan.codebook)},
          {"method", plan.method},
          {"budget",
           {{"asked_bits", b.asked_bits},
            {"asked_bytes", b.asked_bytes},
            {"mean_bits", b.mean_bits},
            {"total_bytes", b.total_bytes},
            {"predicted_loss", b.predicted_loss},
            {"uncapped_loss", b.uncapped_loss},
            {"loss_bound", b.loss_bound}}},
          {"linears", linears}};
}

}  // namespace fairway::quantize
