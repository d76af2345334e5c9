// From predicted losses and a byte budget to a width for every matrix.
#pragma once

#include <cstdint>
#include <map>

#include "quantize/bit_plan.h"
#include "quantize/sensitivity.h"
#include "quantize/widths.h"

namespace fairway::quantize {

enum class AllocationMethod {
  kOptimal,    // least sum of losses within the budget
  kUniform,    // one width; what a fraction leaves raises whole groups by one bit, first layers first
  kReference,  // the reference quantizer's rule: attention first, then shared experts and dense MLPs, then the experts
               // of outer layers; all routed experts of a layer have one width
};

struct AllocationOptions {
  AllocationMethod method = AllocationMethod::kOptimal;
  // The budget, exactly one of the two. `bits`: mean width of all matrices but the head, scale vectors not counted.
  // `total_bytes`: fixed_bytes + side_bytes + codes of all matrices, the head's too.
  double bits = 0;
  std::int64_t total_bytes = 0;
  int head_bits = 6;  // width of the head; 0: the head is part of the budget (kOptimal and kUniform)
  // Widths allowed to a role, 1..8 for those that are not there. kOptimal only; not for a head that has head_bits.
  std::map<formats::LinearRole, WidthRange> ranges{};
  int max_tuples = 4;  // distinct (gate, up, down) widths among the routed experts of a layer; 0: any. kOptimal only
  codec::Codebook codebook = codec::Codebook::kMul1;
};

// Deterministic; ties are decided in favour of the earlier matrix in file order. Error(kUsage): a budget below the
// least widths (the message has the least that is possible), options that contradict each other. Error(kBadInput): a
// sensitivity that check_sensitivity() refuses.
BitPlan allocate(const ModelSensitivity& sensitivity, const AllocationOptions& options);

const char* allocation_method_name(AllocationMethod method);  // "optimal", "uniform", "reference"

}  // namespace fairway::quantize
