// Words that the rows of the trellis ops use to describe themselves.
#pragma once

#include <limits>

#include "kernels/common/registry.h"
#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

constexpr int kAnyRows = std::numeric_limits<int>::max();
static_assert(kMul1Only == codebook_bit(codec::Codebook::kMul1));
static_assert(kPairBooks == (codebook_bit(codec::Codebook::k3inst) | codebook_bit(codec::Codebook::kMcg)));

constexpr std::uint32_t kAvx2Features = backend::kCpuAvx2;
constexpr std::uint32_t kAvxVnniFeatures = backend::kCpuAvx2 | backend::kCpuAvxVnni;
constexpr std::uint32_t kGfniFeatures = kAvxVnniFeatures | backend::kCpuGfni;
constexpr std::uint32_t kAvx512Features =
    backend::kCpuAvx2 | backend::kCpuAvx512 | backend::kCpuAvx512Vnni | backend::kCpuAvx512Vbmi;

constexpr std::uint32_t kAvx512Fp16Features = kAvx512Features | backend::kCpuAvx512Fp16;

// What a body reads and what its numbers mean; rows of one format and codebook give the same bits if they are
// consistent.
struct RowFormat {
  WeightKind weights;
  Activations activations;
  Numerics numerics;
  WeightCodes codes;
  std::uint8_t codebooks;
};
constexpr RowFormat kFormatReference{WeightKind::kTrellis, Activations::kFp32, Numerics::kBounded, WeightCodes::kExact,
                                     kAllCodebooks};
constexpr RowFormat kFormatF32{WeightKind::kTrellis, Activations::kFp32, Numerics::kConsistent, WeightCodes::kExact,
                               kAllCodebooks};
// One or a few rows: two bytes per weight, added up. More rows: bytes, or words where they must be more exact.
constexpr RowFormat kFormatI8Pairs{WeightKind::kTrellis, Activations::kInt8, Numerics::kConsistent, WeightCodes::kPairs,
                                   kMul1Only};
constexpr RowFormat kFormatI8Words{WeightKind::kTrellis, Activations::kInt8, Numerics::kBounded, WeightCodes::kPairs,
                                   kMul1Only};
constexpr RowFormat kFormatI8Bytes{WeightKind::kTrellis, Activations::kInt8, Numerics::kBounded, WeightCodes::kBytes,
                                   kMul1Only};
// One or a few rows: half-precision sums, each instruction set its own order. More rows: as above.
constexpr RowFormat kFormatF16{WeightKind::kTrellis, Activations::kFp16, Numerics::kBounded, WeightCodes::kExact,
                               kPairBooks};
constexpr RowFormat kFormatF16Bytes{WeightKind::kTrellis, Activations::kFp16, Numerics::kBounded, WeightCodes::kBytes,
                                    kPairBooks};
constexpr RowFormat kFormatI16{WeightKind::kTrellis, Activations::kInt8, Numerics::kBounded, WeightCodes::kExact,
                               kPairBooks};
constexpr RowFormat kFormatI16Bytes{WeightKind::kTrellis, Activations::kInt8, Numerics::kBounded, WeightCodes::kBytes,
                                    kPairBooks};
constexpr RowFormat kFormatDense{WeightKind::kDense, Activations::kFp32, Numerics::kBounded, WeightCodes::kExact, 0};

constexpr Tile kNoTile{};

// Backend names as string literals, for ids built from literals.
#define FAIRWAY_BACKEND_kCpuRef "cpu_ref"
#define FAIRWAY_BACKEND_kCpuAvx2 "cpu_avx2"
#define FAIRWAY_BACKEND_kCpuAvx512 "cpu_avx512"

}  // namespace fairway::kernels
