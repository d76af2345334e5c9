// Random matrices and inputs for the tests of the quantizer's arithmetic.
#pragma once

#include <cstdio>
#include <random>
#include <vector>

#include "common/machine.h"
#include "quantize/incoherence.h"
#include "quantize/moments.h"

namespace fairway::test {

// Rows of correlated inputs: a few directions are strong, as in real activations, and some channels are.
inline std::vector<float> correlated_rows(int rows, int in, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  constexpr int kDirections = 8;
  std::vector<float> directions(static_cast<std::size_t>(kDirections) * in), channel(static_cast<std::size_t>(in));
  for (float& x : directions) x = normal(random);
  for (float& x : channel) x = std::exp(0.5f * normal(random));
  std::vector<float> values(static_cast<std::size_t>(rows) * in);
  for (int r = 0; r < rows; ++r) {
    float strength[kDirections];
    for (float& s : strength) s = 2 * normal(random);
    for (int i = 0; i < in; ++i) {
      float x = normal(random);
      for (int d = 0; d < kDirections; ++d) x += strength[d] * directions[static_cast<std::size_t>(d) * in + i];
      values[static_cast<std::size_t>(r) * in + i] = x * channel[static_cast<std::size_t>(i)];
    }
  }
  return values;
}

inline quantize::PlainWeights random_weights(const std::string& name, int in, int out, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 0.03f);
  quantize::PlainWeights weights{name, in, out, std::vector<float>(static_cast<std::size_t>(in) * out)};
  for (float& x : weights.values) x = normal(random);
  return weights;
}

// sum over outputs of e^T M e, with e the difference of two [out, in] matrices, per unit of weight.
inline double weighted_error(const std::vector<float>& a, const std::vector<float>& b, const quantize::Moments& m) {
  const std::size_t in = static_cast<std::size_t>(m.dim());
  double sum = 0;
  std::vector<double> e(in);
  for (std::size_t row = 0; row < a.size() / in; ++row) {
    for (std::size_t i = 0; i < in; ++i) e[i] = static_cast<double>(a[row * in + i]) - b[row * in + i];
    for (std::size_t i = 0; i < in; ++i) {
      double dot = 0;
      for (std::size_t j = 0; j < in; ++j) dot += static_cast<double>(m.sum()[i * in + j]) * e[j];
      sum += e[i] * dot;
    }
  }
  return sum / m.weight();
}

}  // namespace fairway::test
