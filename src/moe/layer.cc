// The MoE layer: route -> group by expert -> group by bit tuple -> dispatch -> combine.
#include "moe/layer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <numeric>

#include "kernels/dense_linear/dense_linear.h"

namespace fairway::moe {
namespace {

using kernels::ExpertGroup;
using kernels::ExpertWeights;
using kernels::KernelContext;

constexpr int kRouteRowsPerTask = 16;  // a row is a few microseconds of work for 64 to 256 experts
constexpr int kCombineRowsPerTask =
    8;                             // top_k * hidden multiply-adds each; fewer rows than this are not worth a barrier
constexpr int kCombineBlock = 64;  // columns summed at a time, so that the accumulator stays in registers or L1

void route_tokens(const MoeLayerWeights& layer, const float* x, int m, int hidden, const select::Policy& policy,
                  KernelContext& context, MoeScratch& scratch, Counters& counters) {
  kernels::RouteParams params = layer.route;
  params.selection_bias = layer.selection_bias.empty() ? nullptr : layer.selection_bias.data();
  const std::size_t assignments = static_cast<std::size_t>(m) * params.top_k;
  scratch.ids.resize(assignments);
  scratch.weights.resize(assignments);

  backend::Workspace::Scope scope(context.workspace);
  float* logits = context.workspace.alloc<float>(static_cast<std::size_t>(m) * params.experts);
  const kernels::DenseLinearRow* row = select::select_dense_linear(policy, m);
  counters.count_kernel(row->info);
  row->fn({&layer.router.dense(), x, hidden, logits, params.experts, m}, context);

  const auto route_rows = [&](int begin, int end) {
    const std::size_t first = static_cast<std::size_t>(begin);
    kernels::route(logits + first * params.experts, end - begin, params, scratch.ids.data() + first * params.top_k,
                   scratch.weights.data() + first * params.top_k);
  };
  if (m <= kRouteRowsPerTask) return route_rows(0, m);
  context.pool.parallel_for((m + kRouteRowsPerTask - 1) / kRouteRowsPerTask, [&](std::int64_t task, int) {
    const int begin = static_cast<int>(task) * kRouteRowsPerTask;
    route_rows(begin, std::min(begin + kRouteRowsPerTask, m));
  });
}

// Fills scratch.choices with every expert that has tokens; rows come later. Returns the number of slots.
std::int64_t form_groups(const MoeLayerWeights& layer, int m, MoeScratch& scratch) {
  scratch.choices.clear();
  std::int64_t slots = 0;
  if (!layer.experts.empty()) {
    const int experts = static_cast<int>(layer.experts.size());
    kernels::group_tokens(scratch.ids.data(), m, layer.route.top_k, experts, scratch.groups);
    const auto& offsets = scratch.groups.offsets;
    for (int e = 0; e < experts; ++e) {
      const int tokens = offsets[e + 1] - offsets[e];
      if (tokens == 0) continue;
      const ExpertGroup group{&layer.experts[e], scratch.groups.rows.data() + offsets[e], tokens, offsets[e]};
      scratch.choices.push_back({group, group.expert->bits()});
    }
    slots = static_cast<std::int64_t>(m) * layer.route.top_k;
  }
  if (scratch.all_rows.size() < static_cast<std::size_t>(m)) {
    scratch.all_rows.resize(m);
    std::iota(scratch.all_rows.begin(), scratch.all_rows.end(), 0);
  }
  for (const ExpertWeights& expert : layer.always_on) {
    scratch.choices.push_back({{&expert, scratch.all_rows.data(), m, slots}, expert.bits()});
    slots += m;
  }
  return slots;
}

// The row of this call, and of the dense experts it may have besides. A bit tuple that the row has refused goes to the
// next candidate that has not, alone.
select::KernelSelector::Decision choose_rows(const MoeLayerWeights& layer, int m, const select::Policy& policy,
                                             select::KernelSelector& selector, MoeScratch& scratch) {
  select::KernelSelector::Decision decision{};
  const bool any_trellis = std::any_of(scratch.choices.begin(), scratch.choices.end(),
                                       [](const auto& c) { return c.group.expert->is_trellis(); });
  if (any_trellis) decision = selector.decide(layer.traits, m);
  for (MoeScratch::Choice& choice : scratch.choices) {
    if (!choice.group.expert->is_trellis()) {
      choice.row = select::select_moe_dense(policy, choice.group.m);
      choice.tile = choice.row->info.tile;
      continue;
    }
    const select::MoeCandidate& candidate = selector.candidate_for(decision, choice.bits);
    choice.row = candidate.row;
    choice.tile = candidate.tile;
    choice.fallback = candidate == decision.candidate() ? decision.site->fallback : select::Fallback::kRefusedTuple;
  }
  return decision;
}

// One kernel call per row, over all its experts in the order of their bit tuples. Returns the milliseconds of the calls
// of `timed`, 0 if that is null.
double dispatch(const float* x, int hidden, float* slots, const kernels::MoeSwigluRow* timed, KernelContext& context,
                MoeScratch& scratch, Counters& counters) {
  auto& choices = scratch.choices;
  std::sort(choices.begin(), choices.end(), [](const auto& a, const auto& b) {
    if (a.row != b.row) return std::less<>()(a.row, b.row);
    return a.bits != b.bits ? a.bits < b.bits : a.group.slot_begin < b.group.slot_begin;
  });
  scratch.expert_groups.clear();
  for (const auto& choice : choices) scratch.expert_groups.push_back(choice.group);

  double milliseconds = 0;
  for (std::size_t begin = 0; begin < choices.size();) {
    const kernels::MoeSwigluRow& row = *choices[begin].row;
    std::size_t end = begin;
    std::array<bool, select::kFallbacks> reasons{};
    for (; end < choices.size() && choices[end].row == &row; ++end) {
      reasons[static_cast<std::size_t>(choices[end].fallback)] = true;
      counters.bit_tuples += end == begin || choices[end].bits != choices[end - 1].bits;
    }
    for (std::size_t reason = 1; reason < reasons.size(); ++reason) counters.fallbacks[reason] += reasons[reason];
    ++counters.grouped_calls;
    counters.expert_groups += end - begin;
    counters.count_kernel(row.info);
    const std::span groups = std::span(scratch.expert_groups).subspan(begin, end - begin);
    if (&row == timed) {
      const auto start = std::chrono::steady_clock::now();
      row.fn({x, hidden, hidden, groups, slots}, choices[begin].tile, context);
      milliseconds += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    } else {
      row.fn({x, hidden, hidden, groups, slots}, choices[begin].tile, context);
    }
    begin = end;
  }
  return milliseconds;
}

// y[token] += sum of the token's weighted slots.
void combine_token(const MoeLayerWeights& layer, const float* slots, int m, int hidden, int token,
                   const MoeScratch& scratch, float* y) {
  const int top_k = layer.experts.empty() ? 0 : layer.route.top_k;
  const std::int64_t first = static_cast<std::int64_t>(token) * top_k;
  const std::int64_t always_on_begin = static_cast<std::int64_t>(m) * top_k;
  for (int begin = 0; begin < hidden; begin += kCombineBlock) {
    const int width = std::min(kCombineBlock, hidden - begin);
    float sum[kCombineBlock] = {};
    for (int k = 0; k < top_k; ++k) {
      const float weight = scratch.weights[first + k];
      const float* slot = slots + static_cast<std::int64_t>(scratch.groups.slot_of[first + k]) * hidden + begin;
      for (int i = 0; i < width; ++i) sum[i] += weight * slot[i];
    }
    for (std::size_t s = 0; s < layer.always_on.size(); ++s) {
      const std::int64_t slot_row = always_on_begin + static_cast<std::int64_t>(s) * m + token;
      const float* slot = slots + slot_row * hidden + begin;
      for (int i = 0; i < width; ++i) sum[i] += slot[i];
    }
    float* out = y + static_cast<std::int64_t>(token) * hidden + begin;
    for (int i = 0; i < width; ++i) out[i] += sum[i];
  }
}

}  // namespace

void moe_forward(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                 const select::Policy& policy, KernelContext& context, MoeScratch& scratch, Counters& counters) {
  if (m <= 0) return;
  if (!layer.experts.empty()) route_tokens(layer, x, m, hidden, policy, context, scratch, counters);
  if (counters.observer) {
    const std::size_t routed = layer.experts.empty() ? 0 : scratch.ids.size();
    counters.observer(layer, x, m, hidden, std::span(scratch.ids).first(routed),
                      std::span(scratch.weights).first(routed));
  }
  moe_forward_routed(layer, x, m, hidden, y, policy, context, scratch, counters);
}

void moe_forward_routed(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                        const select::Policy& policy, KernelContext& context, MoeScratch& scratch, Counters& counters) {
  if (m <= 0) return;
  const std::int64_t slot_count = form_groups(layer, m, scratch);
  select::KernelSelector& selector = *policy.selector;
  const auto decision = choose_rows(layer, m, policy, selector, scratch);

  backend::Workspace::Scope scope(context.workspace);
  float* slots = context.workspace.alloc<float>(static_cast<std::size_t>(slot_count) * hidden);
  const bool learns = selector.learns() && decision.site != nullptr;
  const double milliseconds =
      dispatch(x, hidden, slots, learns ? decision.candidate().row : nullptr, context, scratch, counters);
  if (learns) selector.record(decision, milliseconds);

  const auto combine_rows = [&](int begin, int end) {
    for (int token = begin; token < end; ++token) combine_token(layer, slots, m, hidden, token, scratch, y);
  };
  if (m <= kCombineRowsPerTask) return combine_rows(0, m);
  context.pool.parallel_for((m + kCombineRowsPerTask - 1) / kCombineRowsPerTask, [&](std::int64_t task, int) {
    const int begin = static_cast<int>(task) * kCombineRowsPerTask;
    combine_rows(begin, std::min(begin + kCombineRowsPerTask, m));
  });
}

}  // namespace fairway::moe
