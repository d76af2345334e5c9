// Budgets in bits of codes, the rules, and the facts of the result.
#include "quantize/allocate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "fairway/error.h"
#include "quantize/group_rules.h"
#include "quantize/knapsack.h"
#include "quantize/sensitivity_file.h"
#include "quantize/tuple_cap.h"

namespace fairway::quantize {
namespace {

using formats::LinearRole;

[[noreturn]] void bad_option(const std::string& what) {
  throw Error(ErrorKind::kUsage, "allocation: " + what);
}

void check_budget_options(const AllocationOptions& o) {
  if ((o.bits != 0) == (o.total_bytes != 0)) bad_option("give either bits per weight or total bytes");
  if (o.total_bytes == 0 && !(o.bits >= 1 && o.bits <= kMaxBits)) {
    bad_option(fmt::format("{} bits per weight, expected 1 to {}", o.bits, kMaxBits));
  }
  if (o.total_bytes < 0) bad_option(fmt::format("{} bytes, expected a positive number", o.total_bytes));
  if (o.head_bits < 0 || o.head_bits > kMaxBits) {
    bad_option(
        fmt::format("a head of {} bits, expected 1 to {}, or 0 to count it in the budget", o.head_bits, kMaxBits));
  }
  if (o.max_tuples < 0) bad_option(fmt::format("at most {} tuples in a layer, expected 0 or more", o.max_tuples));
}

void check_options(const AllocationOptions& o) {
  check_budget_options(o);
  for (const auto& [role, range] : o.ranges) {
    const char* name = formats::linear_role_name(role);
    if (range.low < 1 || range.high > kMaxBits || range.low > range.high) {
      bad_option(fmt::format("widths {} to {} for {}, expected a range within 1 to {}", range.low, range.high, name,
                             kMaxBits));
    }
    if (role == LinearRole::kEmbedding || role == LinearRole::kRouter) {
      bad_option(fmt::format("widths for {}, which is never coded", name));
    }
    if (o.method != AllocationMethod::kOptimal && range != WidthRange{}) {
      bad_option(
          fmt::format("widths {} to {} for {}: only the optimal allocation has ranges", range.low, range.high, name));
    }
    if (role == LinearRole::kHead && o.head_bits != 0) {
      bad_option(fmt::format("both a head of {} bits and a range for it", o.head_bits));
    }
  }
  if (o.method == AllocationMethod::kReference && o.head_bits == 0) {
    bad_option("the reference rule does not count the head in the budget, give it 1 to 8 bits");
  }
}

class Allocator {
 public:
  Allocator(const ModelSensitivity& sensitivity, const AllocationOptions& options)
      : sensitivity_(sensitivity), options_(options), widths_(sensitivity.linears.size(), 0) {
    fixed_bytes_ = sensitivity.fixed_bytes;
    for (std::size_t i = 0; i < sensitivity.linears.size(); ++i) {
      const LinearSensitivity& linear = sensitivity.linears[i];
      fixed_bytes_ += linear.side_bytes;
      if (linear.role == LinearRole::kHead && options.head_bits != 0) {
        widths_[i] = options.head_bits;
        fixed_bytes_ += linear.weights / 8 * options.head_bits;
        fixed_loss_ += linear.loss[static_cast<std::size_t>(options.head_bits)];
        continue;
      }
      budgeted_.push_back(i);
      weights_ += linear.weights;
      least_bits_ += linear.weights * range_of(linear).low;
    }
    prepare_budget();
  }

  BitPlan allocate() {
    switch (options_.method) {
      case AllocationMethod::kOptimal:
        allocate_optimal();
        break;
      case AllocationMethod::kUniform:
        merge(allocate_uniform(sensitivity_.linears, budgeted_, budget_bits_));
        break;
      case AllocationMethod::kReference:
        merge(allocate_reference(sensitivity_.linears, budgeted_, budget_bits_));
        break;
    }
    return plan();
  }

 private:
  WidthRange range_of(const LinearSensitivity& linear) const {
    const auto found = options_.ranges.find(linear.role);
    return found == options_.ranges.end() ? WidthRange{} : found->second;
  }

  void prepare_budget() {
    if (options_.total_bytes == 0) {
      budget_bits_ = static_cast<std::int64_t>(std::floor(options_.bits * static_cast<double>(weights_)));
      if (budget_bits_ >= least_bits_) return;
      bad_option(fmt::format("{} bits per weight is not enough; the least that the widths allow is {:.4f}",
                             options_.bits, static_cast<double>(least_bits_) / static_cast<double>(weights_)));
    }
    // Beyond 8 bits for everything nothing can be spent; cut here, so that the product below stays small.
    const std::int64_t code_bytes = std::min(options_.total_bytes - fixed_bytes_, weights_ / 8 * kMaxBits);
    if (code_bytes * 8 >= least_bits_ && code_bytes >= 0) {
      budget_bits_ = code_bytes * 8;
      return;
    }
    bad_option(fmt::format("{} bytes are not enough; the least that the widths allow is {}", options_.total_bytes,
                           fixed_bytes_ + least_bits_ / 8));
  }

  void merge(const std::vector<int>& widths) {
    for (const std::size_t i : budgeted_) widths_[i] = widths[i];
  }

  void allocate_optimal() {
    std::vector<Item> items;
    std::vector<FreeMatrix> matrices;
    for (const std::size_t i : budgeted_) {
      const LinearSensitivity& linear = sensitivity_.linears[i];
      matrices.push_back({linear.weights, linear.loss, range_of(linear)});
      items.push_back(width_choices(matrices.back()));
    }
    const Selection selection = solve_knapsack(items, budget_bits_);
    bound_ = selection.bound;
    for (std::size_t b = 0; b < budgeted_.size(); ++b)
      widths_[budgeted_[b]] = matrices[b].range.low + selection.chosen[b];
    uncapped_loss_ = loss();
    if (options_.max_tuples == 0 || most_tuples() <= options_.max_tuples) return;
    const std::vector<int> capped =
        allocate_capped(matrices, expert_layers(), options_.max_tuples, budget_bits_, selection.multiplier);
    for (std::size_t b = 0; b < budgeted_.size(); ++b) widths_[budgeted_[b]] = capped[b];
  }

  // Routed experts of every layer, as indices into budgeted_.
  std::vector<ExpertLayer> expert_layers() const {
    std::map<int, std::map<int, ExpertMatrices>> by_number;
    for (std::size_t b = 0; b < budgeted_.size(); ++b) {
      const LinearSensitivity& linear = sensitivity_.linears[budgeted_[b]];
      if (linear.role != LinearRole::kExpert) continue;
      const std::string_view leaf = std::string_view(linear.prefix).substr(linear.prefix.rfind('.') + 1);
      const std::size_t projection = leaf == "gate_proj" ? 0 : leaf == "up_proj" ? 1 : 2;
      by_number[linear.layer][linear.expert][projection] = b;
    }
    std::vector<ExpertLayer> layers;
    for (const auto& [layer, experts] : by_number) {
      layers.emplace_back();
      for (const auto& [number, matrices] : experts) layers.back().experts.push_back(matrices);
    }
    return layers;
  }

  int most_tuples() const {
    std::size_t most = 0;
    for (const ExpertLayer& layer : expert_layers()) {
      std::set<std::array<int, 3>> tuples;
      for (const ExpertMatrices& expert : layer.experts) {
        const auto width = [&](std::size_t p) { return widths_[budgeted_[expert[p]]]; };
        tuples.insert({width(0), width(1), width(2)});
      }
      most = std::max(most, tuples.size());
    }
    return static_cast<int>(most);
  }

  // Of the widths as they are, summed in file order.
  double loss() const {
    double sum = 0;
    for (std::size_t i = 0; i < widths_.size(); ++i) {
      sum += sensitivity_.linears[i].loss[static_cast<std::size_t>(widths_[i])];
    }
    return sum;
  }

  BitPlan plan() const {
    BitPlan plan;
    plan.model = sensitivity_.model;
    plan.codebook = options_.codebook;
    plan.method = allocation_method_name(options_.method);
    std::int64_t code_bits = 0;
    for (const std::size_t i : budgeted_) code_bits += sensitivity_.linears[i].weights * widths_[i];
    for (std::size_t i = 0; i < widths_.size(); ++i)
      plan.linears.push_back({sensitivity_.linears[i].prefix, widths_[i]});
    PlanBudget& b = plan.budget;
    b.asked_bits = options_.bits;
    b.asked_bytes = options_.total_bytes;
    b.mean_bits = weights_ > 0 ? static_cast<double>(code_bits) / static_cast<double>(weights_) : 0;
    b.total_bytes = fixed_bytes_ + code_bits / 8;
    b.predicted_loss = loss();
    if (options_.method == AllocationMethod::kOptimal) {
      b.uncapped_loss = uncapped_loss_;
      b.loss_bound = std::min(fixed_loss_ + bound_, uncapped_loss_);  // rounding of sums in another order aside
    }
    return plan;
  }

  const ModelSensitivity& sensitivity_;
  const AllocationOptions& options_;
  std::vector<std::size_t> budgeted_;  // indices of linears that share the budget
  std::vector<int> widths_;            // by linear
  std::int64_t fixed_bytes_ = 0;       // all but the codes that share the budget
  std::int64_t weights_ = 0, least_bits_ = 0, budget_bits_ = 0;
  double fixed_loss_ = 0, bound_ = 0, uncapped_loss_ = 0;
};

}  // namespace

BitPlan allocate(const ModelSensitivity& sensitivity, const AllocationOptions& options) {
  check_options(options);
  check_sensitivity(sensitivity, "sensitivity of " + sensitivity.model);
  return Allocator(sensitivity, options).allocate();
}

const char* allocation_method_name(AllocationMethod method) {
  switch (method) {
    case AllocationMethod::kOptimal:
      return "optimal";
    case AllocationMethod::kUniform:
      return "uniform";
    case AllocationMethod::kReference:
      return "reference";
  }
  throw Error(ErrorKind::kUsage, fmt::format("allocation method {}, expected 0 to 2", static_cast<int>(method)));
}

}  // namespace fairway::quantize
