// Scales, signs and Hadamard blocks.
#include "quantize/incoherence.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/hadamard.h"
#include "codec/half.h"
#include "quantize/random_signs.h"

namespace fairway::quantize {
namespace {

constexpr int kDim = codec::kHadamardDim;
constexpr double kLeastRatio = 0.01;
constexpr float kSmallestScale = 1.0f / 4096;  // well inside the normal halves

float round_to_half(double value) {
  return codec::float_from_half(codec::half_from_float(static_cast<float>(value)));
}

// Along a row of n values.
template <typename T>
void hadamard_row(T* row, int n) {
  for (int i = 0; i < n; i += kDim) codec::hadamard128(row + i);
}

// Across the rows of one block of 128: values[128][n].
template <typename T>
void hadamard_columns(T* values, int n) {
  for (int distance = 1; distance < kDim; distance *= 2) {
    for (int r = 0; r < kDim; ++r) {
      if (r & distance) continue;
      T* a = values + static_cast<std::size_t>(r) * n;
      T* b = a + static_cast<std::size_t>(distance) * n;
      for (int i = 0; i < n; ++i) {
        const T x = a[i], y = b[i];
        a[i] = x + y;
        b[i] = x - y;
      }
    }
  }
  const T scale = static_cast<T>(codec::kHadamardScaleExact);
  for (std::size_t i = 0; i < static_cast<std::size_t>(kDim) * n; ++i) values[i] *= scale;
}

}  // namespace

void InputPower::add(const PlainWeights& matrix) {
  outputs += matrix.out;
  for (std::int64_t j = 0; j < matrix.out; ++j) {
    const float* row = &matrix.values[static_cast<std::size_t>(j) * weights.size()];
    for (std::size_t k = 0; k < weights.size(); ++k) weights[k] += static_cast<double>(row[k]) * row[k];
  }
}

void InputPower::add(const Moments& moments) {
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    inputs[k] += static_cast<double>(moments.sum()[k * inputs.size() + k]);
  }
  rows += moments.weight();
}

InputScales input_scales(const std::string& name, std::uint64_t seed, const InputPower& power,
                         ScaleExponents exponents) {
  const std::size_t in = power.weights.size();
  const double mean_weight = std::reduce(power.weights.begin(), power.weights.end()) / static_cast<double>(in);
  const double mean_input = std::reduce(power.inputs.begin(), power.inputs.end()) / static_cast<double>(in);
  std::vector<double> magnitude(in);
  double squares = 0;
  for (std::size_t k = 0; k < in; ++k) {
    // Relative to the mean, and not below a hundredth: padded or silent inputs would get no scale, or an infinite one.
    const double w = mean_weight > 0 ? std::max(std::sqrt(power.weights[k] / mean_weight), kLeastRatio) : 1;
    const double x = mean_input > 0 ? std::max(std::sqrt(power.inputs[k] / mean_input), kLeastRatio) : 1;
    magnitude[k] = std::pow(w, exponents.weights) * std::pow(x, -exponents.inputs);
    squares += magnitude[k] * magnitude[k];
  }
  const double rms = mean_weight > 0 ? std::sqrt(mean_weight / static_cast<double>(power.outputs)) : 1;
  const double norm = rms / std::sqrt(squares / static_cast<double>(in));
  const std::vector<float> signs = random_signs(name + ".suh", seed, static_cast<int>(in));
  InputScales scales{std::vector<float>(in)};
  for (std::size_t k = 0; k < in; ++k) {
    scales.suh[k] = signs[k] * std::max(kSmallestScale, round_to_half(magnitude[k] * norm));
  }
  return scales;
}

std::vector<float> output_scales(std::uint64_t seed, const PlainWeights& weights, const InputScales& input,
                                 double gain) {
  const std::vector<float> signs = random_signs(weights.prefix + ".svh", seed, weights.out);
  // In units of the input scales, so that the inner weights have a root mean square of `gain`.
  std::vector<double> rms(static_cast<std::size_t>(weights.out));
  double roots = 0;
  int live = 0;
  for (int j = 0; j < weights.out; ++j) {
    double sum = 0;
    for (int k = 0; k < weights.in; ++k) {
      const double inner =
          static_cast<double>(weights.values[static_cast<std::size_t>(j) * weights.in + k]) / input.suh[k];
      sum += inner * inner;
    }
    rms[j] = std::sqrt(sum / weights.in);
    roots += rms[j];
    live += rms[j] > 0;
  }
  // With svh_j = c sqrt(rms_j), the mean square over the live outputs of rms_j / svh_j is mean(rms) / c^2.
  const double c = live == 0 ? 1.0 : std::sqrt(roots / live) / gain;
  std::vector<float> svh(rms.size());
  for (std::size_t j = 0; j < svh.size(); ++j) {
    if (rms[j] > 0) svh[j] = signs[j] * std::max(kSmallestScale, round_to_half(c * std::sqrt(rms[j])));
  }
  return svh;
}

std::vector<float> inner_weights(const PlainWeights& weights, const InputScales& input, const std::vector<float>& svh,
                                 kernels::KernelContext& context) {
  const int in = weights.in;
  std::vector<float> inner(weights.values.size());
  context.pool.parallel_for(weights.out / kDim, [&](std::int64_t block, int) {
    for (std::int64_t j = block * kDim; j < (block + 1) * kDim; ++j) {
      const float* from = &weights.values[static_cast<std::size_t>(j) * in];
      float* row = &inner[static_cast<std::size_t>(j) * in];
      const float scale = svh[j] == 0 ? 0.0f : 1.0f / svh[j];
      for (int k = 0; k < in; ++k) row[k] = from[k] * scale / input.suh[k];
      hadamard_row(row, in);
    }
    hadamard_columns(&inner[static_cast<std::size_t>(block) * kDim * in], in);
  });
  return inner;
}

std::vector<float> outer_weights(const std::vector<float>& inner, int in, int out, const std::vector<float>& suh,
                                 const std::vector<float>& svh, kernels::KernelContext& context) {
  std::vector<float> weights = inner;
  context.pool.parallel_for(out / kDim, [&](std::int64_t block, int) {
    hadamard_columns(&weights[static_cast<std::size_t>(block) * kDim * in], in);
    for (std::int64_t j = block * kDim; j < (block + 1) * kDim; ++j) {
      float* row = &weights[static_cast<std::size_t>(j) * in];
      hadamard_row(row, in);
      for (int k = 0; k < in; ++k) row[k] *= suh[k] * svh[j];
    }
  });
  return weights;
}

std::vector<double> inner_hessian(const Moments& moments, double divisor, const InputScales& input,
                                  kernels::KernelContext& context) {
  const int n = moments.dim();
  std::vector<double> h(static_cast<std::size_t>(n) * n);
  context.pool.parallel_for(n / kDim, [&](std::int64_t block, int) {
    for (std::int64_t i = block * kDim; i < (block + 1) * kDim; ++i) {
      double* row = &h[static_cast<std::size_t>(i) * n];
      const float* from = &moments.sum()[static_cast<std::size_t>(i) * n];
      for (int k = 0; k < n; ++k) row[k] = static_cast<double>(from[k]) * input.suh[k] * input.suh[i] / divisor;
      hadamard_row(row, n);
    }
    hadamard_columns(&h[static_cast<std::size_t>(block) * kDim * n], n);
  });
  return h;
}

}  // namespace fairway::quantize
