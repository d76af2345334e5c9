// Random weight matrices and inputs for tests, `fairway verify`, and tuning without a model: storage behind a guard
// page, odd alignment, padded exact sizes.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "codec/packing.h"
#include "kernels/common/matrix.h"

namespace fairway::verify {

// Bytes that end where an unreadable page begins, so a read beyond them faults.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size);
  ~GuardedBytes();
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  std::uint8_t* data() { return data_; }

 private:
  std::size_t mapped_;
  std::uint8_t* base_;
  std::uint8_t* data_;
};

using codec::padded;

// Owns the storage of one random matrix of exact size in -> out. Random words are always a legal tile. An output has
// about the variance of an input.
class RandomTrellis {
 public:
  RandomTrellis(std::mt19937& random, int in_exact, int out_exact, int bits, codec::Codebook codebook, bool with_bias);

  const kernels::TrellisMatrix& matrix() const { return matrix_; }
  kernels::LinearWeights linear() const { return {in_exact_, out_exact_, matrix_}; }
  // Scales become halves, as files and devices store them.
  void round_scales();
  // Reads the input scales of the other matrix, which has as many inputs and must outlive this one.
  void share_input_scales(const RandomTrellis& other) { matrix_.suh = other.matrix_.suh; }

  int in_exact() const { return in_exact_; }
  int out_exact() const { return out_exact_; }

 private:
  int in_exact_, out_exact_;
  kernels::TrellisMatrix matrix_;
  std::unique_ptr<GuardedBytes> words_;
  std::vector<float> suh_, svh_, bias_;
};

// One plain matrix, stored at an odd address in front of a guard page, and its exact values.
struct RandomDense {
  RandomDense(std::mt19937& random, int in, int out, kernels::DenseType type, bool with_bias);

  std::vector<double> values;  // [out, in]
  std::vector<float> bias;     // [out] or empty
  std::unique_ptr<GuardedBytes> bytes;
  kernels::LinearWeights weights;
};

std::vector<float> random_normal(std::mt19937& random, std::size_t count);

// NaN, for outputs that a kernel must write, or must leave alone.
std::vector<float> poison(std::size_t count);
bool still_poison(std::span<const float> values);

}  // namespace fairway::verify
