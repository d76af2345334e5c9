// The MoE layer: route -> group by expert -> group by bit tuple -> dispatch -> combine. There is no other path.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/group_tokens/group_tokens.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/route/route.h"
#include "moe/counters.h"
#include "select/select.h"

namespace fairway::moe {

// A dense MLP is a layer with no routed experts and one always-on expert.
struct MoeLayerWeights {
  kernels::LinearWeights router;                  // [hidden -> experts]; unused without routed experts
  std::vector<float> selection_bias;              // [experts] or empty
  std::vector<kernels::ExpertWeights> experts;    // routed
  std::vector<kernels::ExpertWeights> always_on;  // shared experts or the dense MLP, weight 1
  kernels::RouteParams route;                     // selection_bias pointer is filled in by forward
};

// Reusable per-thread-of-control state, so that a call allocates nothing once warm.
struct MoeScratch {
  // An expert with its tokens and the row that was selected for it.
  struct Choice {
    const kernels::MoeSwigluRow* row;
    select::Fallback fallback;
    const kernels::MoeSwigluRow* by_call;  // would serve this group together with others of any size, or null
    kernels::BitTuple bits;
    kernels::ExpertGroup group;
  };

  kernels::TokenGroups groups;
  std::vector<Choice> choices;
  std::vector<kernels::ExpertGroup> expert_groups;
  std::vector<std::int32_t> ids, all_rows;
  std::vector<float> weights;
};

// y[M, hidden] += layer(x[M, hidden]). x and y must not overlap. The router must be dense. Every expert that has tokens
// gets a row by its own number of tokens; experts that got the same row share one kernel call, whatever their widths.
// Where these rows differ, the experts for which there is a row for groups of all sizes (moe_trellis_swiglu_grouped of
// the same backend, activations and codes) share one call of that row instead. Each row of y is summed in the order of
// the router's choice, then the always-on experts: the same bits for any number of threads.
void moe_forward(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                 const select::Policy& policy, kernels::KernelContext& context, MoeScratch& scratch,
                 Counters& counters);

// The same with the assignment given: scratch.ids and scratch.weights ([m, top_k], distinct experts per token) are
// filled by the caller. moe_forward is the router followed by this; benchmarks that time the experts alone start here.
void moe_forward_routed(const MoeLayerWeights& layer, const float* x, int m, int hidden, float* y,
                        const select::Policy& policy, kernels::KernelContext& context, MoeScratch& scratch,
                        Counters& counters);

}  // namespace fairway::moe
