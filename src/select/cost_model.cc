// How long a call should take: hot rates of the band kernels, times what the call asks of them. Rates of one core of an
// Emerald Rapids Xeon at 2.6 GHz, matrices of 2048 x 128 at 3 bits in L2, best of 2000 (2026-11-21). They age without
// harm: a candidate is timed if it is predicted to be near the best, and taken only if it is measured to be faster.
#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "select/candidates.h"

namespace fairway::select {
namespace {

using kernels::Activations;
using kernels::Backend;
using kernels::KernelRow;

// Nanoseconds per weight of one core: a decode in registers, and each row that shares it; a decode into a panel, and
// each row that is multiplied with the panel.
struct Rates {
  double direct, direct_row, panel, panel_row;
};

enum class Kind { kInt8, kHalf, kFp32, kRuntime };

constexpr std::uint32_t kVnni256 = backend::kCpuAvxVnni;

// mul1 reads bytes, the other codebooks pairs of halves, with int8 activations.
Rates rates_of(const KernelRow& row, Kind kind, bool mul1) {
  const bool wide = row.backend == Backend::kCpuAvx512, vnni = (row.requires_features & kVnni256) != 0;
  switch (kind) {
    case Kind::kInt8:
      if (mul1)
        return wide   ? Rates{0.0355, 0.0057, 0.0495, 0.0040}
               : vnni ? Rates{0.0594, 0.0112, 0.096, 0.0081}
                      : Rates{0.0750, 0.0170, 0.083, 0.0151};
      return wide   ? Rates{0.0830, 0.0062, 0.103, 0.0040}
             : vnni ? Rates{0.1610, 0.0102, 0.201, 0.0065}
                    : Rates{0.1630, 0.0158, 0.170, 0.0151};
    case Kind::kHalf:
      return {0.0487, 0.0066, 0.060, 0.0048};
    case Kind::kFp32:
      return wide ? Rates{0.1404, 0.0132, 0.181, 0.0114} : Rates{0.2182, 0.0188, 0.293, 0.0215};
    case Kind::kRuntime:
      return wide ? Rates{0.0870, 0.0062, 0.0, 0.0} : Rates{0.1320, 0.0184, 0.0, 0.0};
  }
  return {1, 1, 1, 1};
}

constexpr int kSharedRows = 4;                  // rows that share a decode in registers
constexpr double kNanosecondsPerByte = 0.055;   // from memory, all cores together: 18 GB/s
constexpr double kCallMicroseconds = 6;         // three rounds of tasks
constexpr double kTransformNanoseconds = 0.35;  // per input or output value of a row and matrix

// How the rows of an expert share a decode under this family; the words are those of the family names.
enum class Sharing { kNone, kFew, kPanel, kBySize };
Sharing sharing_of(std::string_view family) {
  if (family.find("decode") != family.npos) return Sharing::kNone;
  if (family.find("prefill4") != family.npos || family == "mixed_bpw_kernel") return Sharing::kFew;
  if (family.find("grouped") != family.npos) return Sharing::kBySize;
  return Sharing::kPanel;
}

double passes(int m, int share) {
  return std::ceil(static_cast<double>(m) / share);
}

double nanoseconds_per_weight(const Rates& r, Sharing sharing, bool runtime, int tile_m, int m) {
  if (sharing == Sharing::kNone) return m * (r.direct + r.direct_row);
  const bool registers = runtime || (sharing != Sharing::kPanel && m <= kSharedRows);
  if (registers) return passes(m, kSharedRows) * r.direct + m * r.direct_row;
  return passes(m, tile_m) * r.panel + m * r.panel_row;
}

}  // namespace

double predicted_ms(const MoeCandidate& candidate, const MoeLayerTraits& traits, int tokens, int threads) {
  const KernelRow& row = candidate.row->info;
  const bool runtime = std::string_view(row.family) == "mixed_bpw_kernel";
  const Kind kind = runtime                                 ? Kind::kRuntime
                    : row.activations == Activations::kFp32 ? Kind::kFp32
                    : row.activations == Activations::kFp16 ? Kind::kHalf
                                                            : Kind::kInt8;
  const bool mul1 = row.codebooks == kernels::codebook_bit(codec::Codebook::kMul1);
  Rates rates = rates_of(row, kind, mul1);
  if (row.backend == Backend::kCpuRef) rates = {8, 8, 8, 8};
  const double bits = traits.mean_bits();
  const double weights = 3.0 * traits.hidden * traits.intermediate;
  const double values = 2.0 * (2.0 * traits.hidden + 2.0 * traits.intermediate);
  double busy = 0, bytes = 0;
  for (const GroupSize& group : expected_groups(traits, tokens)) {
    const int tile_m = std::max(1, candidate.tile.m);
    busy += group.experts * (weights * nanoseconds_per_weight(rates, sharing_of(row.family), runtime, tile_m, group.m) +
                             group.m * values * kTransformNanoseconds);
    const double reads = sharing_of(row.family) == Sharing::kNone ? 1 : passes(group.m, tile_m);
    bytes += group.experts * weights * bits / 8 * reads;
  }
  const double nanoseconds = std::max(busy / std::max(1, threads), bytes * kNanosecondsPerByte);
  return nanoseconds * 1e-6 + kCallMicroseconds * 1e-3;
}

}  // namespace fairway::select
