// The rows and tiles that may run an MoE call, which of them is taken without any measurement, and how long each should
// take.
#pragma once

#include <string>
#include <vector>

#include "kernels/common/tile.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "select/moe_call.h"
#include "select/select.h"

namespace fairway::select {

// A row with the tile it is called with.
struct MoeCandidate {
  const kernels::MoeSwigluRow* row = nullptr;
  kernels::Tile tile{};

  std::string name() const;  // "cpu_avx512/moe_trellis_swiglu_grouped/m256n64w1"; the row's id alone with its own tile
  friend bool operator==(const MoeCandidate&, const MoeCandidate&) = default;
};

// Parses a name; Error(kUsage) if the row does not exist or the tile is none.
MoeCandidate parse_candidate(const std::string& name);

// The row that the rules of this device family take for a call of so many tokens, or the row that the policy forces.
// Error(kUsage) if none can serve the layer.
MoeCandidate default_candidate(const Policy& policy, const MoeLayerTraits& traits, int tokens);

// Why the rules could not take the kind of row they prefer, for the same call.
Fallback default_fallback(const Policy& policy, const MoeLayerTraits& traits, int tokens);

// Every legal choice for a call, the default first: rows of the default's numerics class (the same kind of activations)
// that run here under the policy and read all codebooks of the layer, with their own tile. Rows that run only on
// request and the scalar reference are legal only if the policy names them. A forced kernel leaves only itself.
std::vector<MoeCandidate> legal_candidates(const Policy& policy, const MoeLayerTraits& traits, int tokens);

// The legal candidates and the tiles worth trying with them, by what cost_model expects: those within `slack` of the
// best prediction, the default always first.
std::vector<MoeCandidate> promising_candidates(const Policy& policy, const MoeLayerTraits& traits, int tokens,
                                               int threads, double slack = 0.25);

// Expected milliseconds of a call. The rates it multiplies are hot rates of single kernels on one machine
// (cost_model.cc names it); what counts is the ratio between candidates.
double predicted_ms(const MoeCandidate& candidate, const MoeLayerTraits& traits, int tokens, int threads);

}  // namespace fairway::select
