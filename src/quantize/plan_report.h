// A bit plan for people and for programs: a table and JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "quantize/bit_plan.h"
#include "quantize/sensitivity.h"

namespace fairway::quantize {

// One line per layer and role: widths (routed experts as counts of (gate, up, down)), mean bits of the codes, bytes
// with scale vectors, share of the predicted loss; then totals. Error(kBadInput) if plan and sensitivity do not have
// the same matrices.
std::string plan_table(const BitPlan& plan, const ModelSensitivity& sensitivity);

// Keys: schema, model, codebook, method, budget (as in the plan file), linears. Each linear has prefix, layer, module,
// expert, name (layer and expert -1, module empty where there is none) and bits, and if `sensitivity` is given also
// role, weights, bytes and loss (of its width). scripts/plot-plan draws it. Errors as of plan_table().
nlohmann::ordered_json plan_json(const BitPlan& plan, const ModelSensitivity* sensitivity = nullptr);

}  // namespace fairway::quantize
