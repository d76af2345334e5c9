// A width for every matrix of a model, and its file, which people read and edit.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "codec/trellis.h"

namespace fairway::quantize {

struct PlannedLinear {
  std::string prefix;  // module key
  int bits = 0;        // 1 to 8
  bool operator==(const PlannedLinear&) const = default;
};

// What an allocation was asked for and what it reached; 0 where a number is not known, as in a plan written by hand.
// Nothing is computed from these numbers: what counts is `linears`.
struct PlanBudget {
  double asked_bits = 0;         // mean width, or
  std::int64_t asked_bytes = 0;  // size of the files
  double mean_bits = 0;          // codes of the matrices that the budget covers / their weights
  std::int64_t total_bytes = 0;  // tensors kept as they are + scale vectors + codes
  double predicted_loss = 0;     // nats per token, sum over all matrices
  double uncapped_loss = 0;      // the same if a layer could have any number of tuples
  double loss_bound = 0;         // no plan within the budget, ranges and fixed widths is predicted to lose less
  bool operator==(const PlanBudget&) const = default;
};

struct BitPlan {
  std::string model;  // name of the source; UTF-8
  codec::Codebook codebook = codec::Codebook::kMul1;
  std::string method;  // "optimal", "uniform", "reference"; "manual" or any other word in a plan written by hand
  PlanBudget budget;
  std::vector<PlannedLinear> linears;
  bool operator==(const BitPlan&) const = default;
};

// The plan as YAML: per layer and module, experts of equal widths on one line. Read back it is the same plan, if the
// matrices outside of layers come last and each layer's stand together with its experts in order, as in file order.
std::string bit_plan_text(const BitPlan& plan);

// Untrusted text, UTF-8. Error(kBadInput) names `source`, line, key and value: unknown, missing and repeated keys,
// widths outside 1..8, matrices planned twice, more than 200,000 matrices. With `expected` (the module keys of all
// matrices that are to be coded, in file order) the plan must name exactly these, and its linears come in this order.
BitPlan parse_bit_plan(const std::string& text, const std::string& source);
BitPlan parse_bit_plan(const std::string& text, const std::string& source, std::span<const std::string> expected);

}  // namespace fairway::quantize
