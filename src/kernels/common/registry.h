// What a kernel row says about itself. Rows live in src/kernels/<op>/kernels.inc and nowhere else; selection, listing,
// tests and benchmarks all read them through this header.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "backend/cpu/features.h"
#include "codec/trellis.h"
#include "kernels/common/tile.h"

namespace fairway::kernels {

enum class Backend : std::uint8_t { kCpuRef, kCpuAvx2, kCpuAvx512 };  // better last
enum class Activations : std::uint8_t { kFp32, kFp16, kInt8 };        // what the matrix product reads
enum class Numerics : std::uint8_t { kExact, kConsistent, kBounded };
enum class WeightKind : std::uint8_t { kNone, kDense, kTrellis };  // kNone: the op reads no weight matrix

// How a row reads the values of a codebook: as they are; as the sum of two bytes, each the average of two; as one byte.
// The errors of the latter two, 0.48 and 0.76 % of a weight, are derived in kernels/trellis_band/.
enum class WeightCodes : std::uint8_t { kExact, kPairs, kBytes };

// When selection takes a row without being told to: by the rows of x of one matrix (m_min..m_max); for a whole call
// whose groups would get different rows; never.
enum class RowUse : std::uint8_t { kByRows, kByCall, kOnRequest };

constexpr std::uint8_t codebook_bit(codec::Codebook c) {
  return static_cast<std::uint8_t>(1u << static_cast<int>(c));
}
constexpr std::uint8_t kAllCodebooks = 7;

// Bits the row was compiled for. All zero: any width from 1 to 8, mixed freely inside one call.
struct BitTuple {
  std::uint8_t gate = 0, up = 0, down = 0;
  friend bool operator==(const BitTuple&, const BitTuple&) = default;
  friend auto operator<=>(const BitTuple&, const BitTuple&) = default;
};

struct KernelRow {
  const char* id;      // "cpu_avx512/moe_trellis_swiglu_decode": backend, family, and a suffix if there are several
  const char* op;      // folder under src/kernels
  const char* family;  // the name users know
  const char* source;  // file of the body, relative to the repository
  Backend backend;
  std::uint32_t requires_features;  // union of backend::CpuFeature
  WeightKind weights;
  Activations activations;
  Numerics numerics;
  WeightCodes codes;
  std::uint8_t codebooks;  // union of codebook_bit, 0 for rows that read no trellis
  BitTuple bits;
  RowUse use;
  int m_min, m_max;  // rows of x per matrix for which the row is meant; it must be correct for any M >= 0
  Tile tile = {};
};

const char* backend_name(Backend backend);  // "cpu_ref", "cpu_avx2", "cpu_avx512"
const char* activations_name(Activations activations);
const char* numerics_name(Numerics numerics);
const char* codes_name(WeightCodes codes);  // "exact", "pairs", "bytes"
const char* use_name(RowUse use);           // "rows", "call", "request"

// True if this machine has what the row needs.
inline bool can_run(const KernelRow& row, std::uint32_t features) {
  return (row.requires_features & ~features) == 0;
}

// Every row of every op, in registration order.
const std::vector<const KernelRow*>& all_kernel_rows();

// Family names of the project's documents, present or not. Those without a row or an alias are reported as missing.
std::span<const std::string_view> known_families();

// A family name without rows of its own. Asking for it means asking for the target family.
struct KernelAlias {
  const char* name;
  const char* target_family;
  const char* reason;
};
std::span<const KernelAlias> kernel_aliases();
const KernelAlias* find_alias(std::string_view name);  // nullptr if the name is none

// Known families that are neither the family of a row nor an alias.
std::vector<std::string_view> missing_families();

}  // namespace fairway::kernels
