// Non-owning views of the two kinds of weight matrices the kernels read. y[M, out] = x[M, in] W + bias.
#pragma once

#include <cstdint>
#include <variant>

#include "codec/trellis.h"

namespace fairway::kernels {

// W = diag(suh) H inner H diag(svh), with inner [in, out] coded in 16 x 16 tiles and H the block-diagonal 128-point
// Hadamard transform. `words` is [in/16][out/16][32 * bits bytes], little-endian 16-bit words, at any byte alignment
// (it usually points into a mapped file; a kernel never reads outside the tiles).
struct TrellisMatrix {
  const std::uint8_t* words = nullptr;
  int in = 0;    // padded, a multiple of 128
  int out = 0;   // padded, a multiple of 128
  int bits = 0;  // 1..8
  codec::Codebook codebook = codec::Codebook::kMul1;
  const float* suh = nullptr;   // [in]; matrices with one address are known to share it, equal copies are not
  const float* svh = nullptr;   // [out]
  const float* bias = nullptr;  // [out] or null
};

enum class DenseType : std::uint8_t { kF32, kF16, kBf16 };

// Of one element.
constexpr std::int64_t dense_type_bytes(DenseType type) {
  return type == DenseType::kF32 ? 4 : 2;
}

// Row-major [out, in], as checkpoints store it. Any byte alignment.
struct DenseMatrix {
  const std::uint8_t* data = nullptr;
  DenseType type = DenseType::kF32;
  int in = 0;
  int out = 0;
  const float* bias = nullptr;  // [out] or null
};

// A linear layer as the model sees it: exact sizes, whatever the padding of its storage.
struct LinearWeights {
  int in = 0;   // columns of x that are read; a trellis matrix extends x with zeros to its padded `in`
  int out = 0;  // columns of y that are written
  std::variant<DenseMatrix, TrellisMatrix> matrix;

  bool is_trellis() const { return std::holds_alternative<TrellisMatrix>(matrix); }
  const TrellisMatrix& trellis() const { return std::get<TrellisMatrix>(matrix); }
  const DenseMatrix& dense() const { return std::get<DenseMatrix>(matrix); }
};

}  // namespace fairway::kernels
