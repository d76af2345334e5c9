// Runs rows of moe_swiglu and trellis_linear on random problems and compares them with the scalar reference.
//
// A round has, for each set of codebooks, a layer whose experts have 0, 1 and more tokens and together all widths from
// 1 to 8 in each projection, and for each codebook and width a linear layer; sizes are random, with and without
// remainders of 128. Every row runs with its own tile and with a random legal one, and with 1 to 3 threads.
#pragma once

#include <atomic>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::verify {

struct RowReport {
  const kernels::KernelRow* row = nullptr;
  int calls = 0;
  std::set<int> widths;        // of trellis weights that were multiplied with at least one token
  std::uint8_t codebooks = 0;  // union of codebook_bit
  int most_tokens = 0;         // of one expert or layer
  int tiles = 0;               // different ones
  double worst_error = 0;      // of a row of results, relative to its norm
  double bound = 0;            // what that error had to stay below; 0: exact
  std::string mismatch;        // the first one, with its values; empty: none
};

struct CheckOptions {
  int rounds = 3;
  std::uint32_t seed = 1;
  const std::atomic<bool>* cancel = nullptr;  // checked between calls
  std::function<void(double share)> progress = {};

  bool cancelled() const { return cancel != nullptr && cancel->load(); }
};

// Every round of a check until it is cancelled: its random numbers, its number, and how a message names it, so that the
// same seed brings it back.
void for_each_round(const CheckOptions& options,
                    const std::function<void(std::mt19937& random, int round, const std::string& where)>& check);

struct CheckedRows {
  std::vector<const kernels::MoeSwigluRow*> experts;
  std::vector<const kernels::TrellisLinearRow*> linears;
};

// A report for each row, experts first. The rows must run on this machine. A row stops at its first mismatch; all stop
// when cancelled. A row meets the same problems and tiles whichever rows it is checked with.
std::vector<RowReport> check_rows(const CheckedRows& rows, const CheckOptions& options);

}  // namespace fairway::verify
