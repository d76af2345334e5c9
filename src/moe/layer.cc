// The MoE layer: route -> group by expert -> group by bit tuple -> dispatch -> combine.
#include "moe/layer.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>

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

std::uint8_t codebooks_of(const ExpertWeights& expert) {
  return kernels::codebook_bit(expert.gate.trellis().codebook) | kernels::codebook_bit(expert.up.trellis().codebook) |
         kernels::codebook_bit(expert.down.trellis().codebook);
}

MoeScratch::Choice choose(const select::Policy& policy, const ExpertGroup& group) {
  if (!group.expert->is_trellis()) {
    return {select::select_moe_dense(policy, group.m), select::Fallback::kNone, nullptr, {}, group};
  }
  const kernels::BitTuple bits = group.expert->bits();
  const auto choice = select::select_moe_swiglu(policy, {group.m, bits, codebooks_of(*group.expert)});
  return {choice.row, choice.fallback, nullptr, bits, group};
}

// Fills scratch.choices with every expert that has tokens. Returns the number of slots.
std::int64_t form_groups(const MoeLayerWeights& layer, int m, const select::Policy& policy, MoeScratch& scratch) {
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
      scratch.choices.push_back(choose(policy, group));
    }
    slots = static_cast<std::int64_t>(m) * layer.route.top_k;
  }
  if (scratch.all_rows.size() < static_cast<std::size_t>(m)) {
    scratch.all_rows.resize(m);
    std::iota(scratch.all_rows.begin(), scratch.all_rows.end(), 0);
  }
  for (const ExpertWeights& expert : layer.always_on) {
    scratch.choices.push_back(choose(policy, {&expert, scratch.all_rows.data(), m, slots}));
    slots += m;
  }
  return slots;
}

void count_tuples(const std::vector<MoeScratch::Choice>& sorted_by_bits, Counters& counters) {
  kernels::BitTuple previous{};
  for (const MoeScratch::Choice& choice : sorted_by_bits) {
    if (choice.bits != previous) ++counters.bit_tuples;  // dense experts have the zero tuple and sort first
    previous = choice.bits;
  }
}

// Experts whose rows differ by the number of their tokens only go together to the row that takes groups of all sizes.
void merge_sizes(const select::Policy& policy, std::vector<MoeScratch::Choice>& choices) {
  const auto same_row = [&](const auto& choice) { return choice.row == choices.front().row; };
  if (std::all_of(choices.begin(), choices.end(), same_row)) return;
  for (MoeScratch::Choice& choice : choices) {
    const ExpertWeights& expert = *choice.group.expert;
    if (!expert.is_trellis()) continue;
    choice.by_call = select::select_moe_by_call(policy, choice.row->info, codebooks_of(expert));
  }
  const auto before = [](const auto& a, const auto& b) {
    return std::tuple(a.by_call, a.row) < std::tuple(b.by_call, b.row);
  };
  std::sort(choices.begin(), choices.end(), before);
  for (std::size_t begin = 0, end; begin < choices.size(); begin = end) {
    for (end = begin + 1; end < choices.size() && choices[end].by_call == choices[begin].by_call;) ++end;
    if (choices[begin].by_call == nullptr || choices[begin].row == choices[end - 1].row) continue;
    for (std::size_t i = begin; i < end; ++i) choices[i].row = choices[i].by_call;
  }
}

// One kernel call per selected row, over all its experts in the order of their bit tuples.
void dispatch(const float* x, int hidden, float* slots, KernelContext& context, MoeScratch& scratch,
              Counters& counters) {
  auto& choices = scratch.choices;
  const auto by_bits = [](const auto& a, const auto& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.group.slot_begin < b.group.slot_begin;
  };
  std::sort(choices.begin(), choices.end(), by_bits);
  count_tuples(choices, counters);
  std::sort(choices.begin(), choices.end(),
            [&](const auto& a, const auto& b) { return a.row != b.row ? std::less<>()(a.row, b.row) : by_bits(a, b); });
  scratch.expert_groups.clear();
  for (const auto& choice : choices) scratch.expert_groups.push_back(choice.group);

  for (std::size_t begin = 0; begin < choices.size();) {
    const kernels::MoeSwigluRow& row = *choices[begin].row;
    std::size_t end = begin;
    std::array<bool, std::tuple_size_v<decltype(counters.fallbacks)>> reasons{};
    for (; end < choices.size() && choices[end].row == &row; ++end) {
      reasons[static_cast<std::size_t>(choices[end].fallback)] = true;
    }
    for (std::size_t reason = 1; reason < reasons.size(); ++reason) counters.fallbacks[reason] += reasons[reason];
    ++counters.grouped_calls;
    counters.expert_groups += end - begin;
    counters.count_kernel(row.info);
    const std::span groups = std::span(scratch.expert_groups).subspan(begin, end - begin);
    row.fn({x, hidden, hidden, groups, slots}, row.info.tile, context);
    begin = end;
  }
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
  moe_forward_routed(layer, x, m, hidden, y, policy, context, scratch, counters);
}

void moe_forward_routed(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                        const select::Policy& policy, KernelContext& context, MoeScratch& scratch, Counters& counters) {
  if (m <= 0) return;
  const std::int64_t slot_count = form_groups(layer, m, policy, scratch);
  merge_sizes(policy, scratch.choices);

  backend::Workspace::Scope scope(context.workspace);
  float* slots = context.workspace.alloc<float>(static_cast<std::size_t>(slot_count) * hidden);
  dispatch(x, hidden, slots, context, scratch, counters);

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
