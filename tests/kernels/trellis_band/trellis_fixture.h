// Random trellis matrices for kernel tests: tiles behind a guard page, odd alignment, padded exact sizes.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <vector>

#include "codec/packing.h"
#include "kernels/common/matrix.h"
#include "kernels/common/registry.h"

namespace fairway::test {

// Bytes that end where an unreadable page begins, so a read beyond them faults.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    mapped_ = (size + page - 1) / page * page + page;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::uint8_t*>(p);
    if (mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = base_ + mapped_ - page - size;
  }
  ~GuardedBytes() { munmap(base_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  std::uint8_t* data() { return data_; }

 private:
  std::size_t mapped_;
  std::uint8_t* base_;
  std::uint8_t* data_;
};

constexpr int padded(int n) {
  return (n + codec::kHadamardDim - 1) / codec::kHadamardDim * codec::kHadamardDim;
}

// Owns the storage of one random matrix of exact size in -> out. Random words are always a legal tile.
class RandomTrellis {
 public:
  RandomTrellis(std::mt19937& random, int in_exact, int out_exact, int bits, codec::Codebook codebook, bool with_bias)
      : in_exact_(in_exact), out_exact_(out_exact) {
    matrix_.in = padded(in_exact);
    matrix_.out = padded(out_exact);
    matrix_.bits = bits;
    matrix_.codebook = codebook;
    const std::size_t size = static_cast<std::size_t>(matrix_.in / 16 * (matrix_.out / 16)) * codec::tile_bytes(bits);
    // The tiles fill the mapping up to the guard page, minus a byte for half of the matrices, which misaligns them.
    const std::size_t slack = random() % 2;
    words_ = std::make_unique<GuardedBytes>(size + slack);
    for (std::size_t i = 0; i < size; ++i) words_->data()[i] = static_cast<std::uint8_t>(random());
    matrix_.words = words_->data();
    std::normal_distribution<float> normal;
    const auto vector = [&](int n, float scale) {
      std::vector<float> v(static_cast<std::size_t>(n));
      for (float& value : v) value = (random() % 2 ? scale : -scale) * std::exp(0.25f * normal(random));
      return v;
    };
    suh_ = vector(matrix_.in, 1.0f / std::sqrt(static_cast<float>(matrix_.in)));
    svh_ = vector(matrix_.out, 1.0f);
    if (with_bias) bias_ = vector(matrix_.out, 0.5f);
    matrix_.suh = suh_.data();
    matrix_.svh = svh_.data();
    matrix_.bias = with_bias ? bias_.data() : nullptr;
  }

  const kernels::TrellisMatrix& matrix() const { return matrix_; }
  kernels::LinearWeights linear() const { return {in_exact_, out_exact_, matrix_}; }
  int in_exact() const { return in_exact_; }
  int out_exact() const { return out_exact_; }

 private:
  int in_exact_, out_exact_;
  kernels::TrellisMatrix matrix_;
  std::unique_ptr<GuardedBytes> words_;
  std::vector<float> suh_, svh_, bias_;
};

inline std::vector<float> random_normal(std::mt19937& random, std::size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> v(count);
  for (float& value : v) value = normal(random);
  return v;
}

inline std::vector<float> poison(std::size_t count) {
  return std::vector<float>(count, std::numeric_limits<float>::quiet_NaN());
}

// Any of those that the row reads, mul1 if it is among them.
inline codec::Codebook codebook_of(const kernels::KernelRow& row) {
  return row.codebooks & kernels::codebook_bit(codec::Codebook::kMul1) ? codec::Codebook::kMul1 : codec::Codebook::kMcg;
}

// What one product of k inputs with Gaussian rows may be wrong by, relative to the norm of a row of results.
//
// Exact values with fp32 activations: k products of relative error 2^-24 each and the same for the partial sums, in the
// worst case of random signs a few times sqrt(k); the transforms keep norms. fp16: products and sums of a block in half
// precision, see trellis_band/f16_avx512fp16.cc. int8: a block's step is amax / 127, and amax of 128 Gaussian values
// stays below 4.5 deviations, so the rounding error stays below 4.5 / 127 / sqrt(12) = 1.02 % of the norm; the error of
// the codes (trellis_band/mul1_codes.h, f16_avx512fp16.cc) adds in quadrature; norms of 128 values move by a quarter
// (four times 1 / sqrt(2 * 128)).
constexpr double kPairsError = 0.7072 / 147.82, kBytesError = 1.1181 / 147.82;
inline double product_error(const kernels::KernelRow& row, int k) {
  using kernels::Activations;
  using kernels::WeightCodes;
  if (row.activations == Activations::kFp32) return (4 * std::sqrt(static_cast<double>(k)) + 8) * std::ldexp(1.0, -24);
  if (row.activations == Activations::kFp16 && row.codes == WeightCodes::kExact) return 0.0025;
  // Codes of one byte come with scales for 64 inputs, and the norms of such short pieces scatter more.
  const bool bytes = row.codes == WeightCodes::kBytes;
  const double codes = bytes ? kBytesError : row.codes == WeightCodes::kPairs ? kPairsError : 0;
  return (bytes ? 1.5 : 1.25) * std::hypot(4.5 / 127 / std::sqrt(12.0), codes);
}

// Pieces of y that a kernel must not have written are still the poison.
inline bool still_poison(std::span<const float> values) {
  for (const float v : values) {
    if (!std::isnan(v)) return false;
  }
  return true;
}

}  // namespace fairway::test
