// One random layer through every path of the CUDA expert layer, compared with double precision.
#pragma once

#include <vector>

#include "kernels/moe_swiglu/cuda/problem.cuh"

namespace fairway::kernels::cuda::check {

// What the routers of a test choose: uniformly at random; one expert that every token has; only the first half of the
// experts; a third of the slots unused.
enum class Routing { kUniform, kOneForAll, kFewExperts, kUnusedSlots };

constexpr int kMaxTokens = 257;  // of token_counts below

std::vector<MoePath> every_moe_path();

// Every legal one of `paths` with every number of tokens and the first `routings` kinds of routing. Outputs and scratch
// are poisoned before each run, and a second run after another poison must give the same bits. Prints the worst error
// of a row by path.
//
// Bound: |row - reference| <= 0.003 |reference| for every row of y. Inputs of all matrices are rounded to halves after
// their transform (2^-12 relative at most, two layers), the integer paths add 15-bit fixed point and the affine form
// of mul1 (2e-4).
void check_layer(const LayerShape& shape, const std::vector<int>& token_counts, int routings,
                 const std::vector<MoePath>& paths = every_moe_path());

}  // namespace fairway::kernels::cuda::check
