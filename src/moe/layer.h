// The MoE layer: route -> group by expert -> group by bit tuple -> dispatch -> combine. There is no other path.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/group_tokens/group_tokens.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/route/route.h"
#include "moe/counters.h"
#include "select/kernel_selector.h"
#include "select/moe_call.h"
#include "select/select.h"

namespace fairway::moe {

// A dense MLP is a layer with no routed experts and one always-on expert.
struct MoeLayerWeights {
  kernels::LinearWeights router;                  // [hidden -> experts]; unused without routed experts
  std::vector<float> selection_bias;              // [experts] or empty
  std::vector<kernels::ExpertWeights> experts;    // routed
  std::vector<kernels::ExpertWeights> always_on;  // shared experts or the dense MLP, weight 1
  kernels::RouteParams route;                     // selection_bias pointer is filled in by forward
  select::MoeLayerTraits traits;                  // of the experts; describe() fills it in

  // To be called once the experts are complete, before the first forward.
  void describe(int hidden) { traits = select::describe_moe_layer(experts, always_on, route.top_k, hidden); }
};

// Reusable per-thread-of-control state, so that a call allocates nothing once warm.
struct MoeScratch {
  // An expert with its tokens and the row that was selected for it.
  struct Choice {
    kernels::ExpertGroup group;
    kernels::BitTuple bits;
    const kernels::MoeSwigluRow* row = nullptr;
    kernels::Tile tile{};
    select::Fallback fallback = select::Fallback::kNone;
  };

  kernels::TokenGroups groups;
  std::vector<Choice> choices;
  std::vector<kernels::ExpertGroup> expert_groups;
  std::vector<std::int32_t> ids, all_rows;
  std::vector<float> weights;
};

// y[M, hidden] += layer(x[M, hidden]). x and y must not overlap. The router must be dense, and the layer described. The
// policy's selector takes one row for all trellis experts of the call, whatever their widths and however many tokens
// each has, and is told how long the row took if it learns. Each row of y is summed in the order of the router's
// choice, then the always-on experts: the same bits for any number of threads.
void moe_forward(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                 const select::Policy& policy, kernels::KernelContext& context, MoeScratch& scratch,
                 Counters& counters);

// The same with the assignment given: scratch.ids and scratch.weights ([m, top_k], distinct experts per token) are
// filled by the caller. moe_forward is the router followed by this; benchmarks that time the experts alone start here.
void moe_forward_routed(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                        const select::Policy& policy, kernels::KernelContext& context, MoeScratch& scratch,
                        Counters& counters);

}  // namespace fairway::moe
