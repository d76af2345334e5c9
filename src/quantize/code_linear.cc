// Scale, transform, code, and fit the output scales to what came out.
#include "quantize/code_linear.h"

#include <cmath>
#include <numeric>

#include "codec/half.h"
#include "quantize/code_profile.h"
#include "quantize/matmul.h"

namespace fairway::quantize {
namespace {

constexpr double kMostRefit = 2;  // a fitted scale that is further off than this factor is a sign of too little data

double dot(const float* a, const float* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

std::vector<std::uint16_t> halves(const std::vector<float>& values) {
  std::vector<std::uint16_t> bits(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) bits[i] = codec::half_from_float(values[i]);
  return bits;
}

// svh_j becomes w^T M b / b^T M b, with w and b the plain and the coded weights of output j without its scale; returns
// what error remains.
CodingFacts fit_output_scales(const PlainWeights& weights, const std::vector<float>& unscaled, const Moments& moments,
                              std::vector<float>& svh, kernels::KernelContext& context) {
  const int in = weights.in, out = weights.out;
  std::vector<float> coded_moments(unscaled.size()), plain_moments(unscaled.size());
  matmul_nt(unscaled.data(), moments.sum().data(), out, in, in, coded_moments.data(), context);
  matmul_nt(weights.values.data(), moments.sum().data(), out, in, in, plain_moments.data(), context);
  double error = 0, power = 0;
  for (int j = 0; j < out; ++j) {
    const std::size_t first = static_cast<std::size_t>(j) * static_cast<std::size_t>(in);
    const double cross = dot(&weights.values[first], &coded_moments[first], in);
    const double own = dot(&unscaled[first], &coded_moments[first], in);
    const double plain = dot(&weights.values[first], &plain_moments[first], in);
    if (own > 0 && svh[static_cast<std::size_t>(j)] != 0) {
      const double ratio = cross / own / svh[static_cast<std::size_t>(j)];
      if (ratio > 1 / kMostRefit && ratio < kMostRefit) {
        svh[static_cast<std::size_t>(j)] =
            codec::float_from_half(codec::half_from_float(static_cast<float>(cross / own)));
      }
    }
    const double s = svh[static_cast<std::size_t>(j)];
    error += plain - 2 * s * cross + s * s * own;
    power += plain;
  }
  const double unit = moments.weight() > 0 ? moments.weight() : 1;
  return {error / unit, power > 0 ? error / power : 0};
}

}  // namespace

CodedLinear code_linear(const PlainWeights& weights, const InputScales& scales, const Moments& moments,
                        const BlockLdl& ldl, int bits, std::uint64_t seed, TileCoders& coders,
                        kernels::KernelContext& context, const std::function<void()>& after_column,
                        const std::atomic<bool>* cancel) {
  const double gain = code_profile(coders.codebook(), bits).gain;
  std::vector<float> svh = output_scales(seed, weights, scales, gain);
  const std::vector<float> inner = inner_weights(weights, scales, svh, context);
  CodedInner coded = ldlq(inner, weights.in, weights.out, ldl, bits, coders, context, after_column, cancel);
  const std::vector<float> ones(svh.size(), 1.0f);
  const std::vector<float> unscaled = outer_weights(coded.decoded, weights.in, weights.out, scales.suh, ones, context);
  const CodingFacts facts = fit_output_scales(weights, unscaled, moments, svh, context);
  return {{weights.prefix,
           weights.in,
           weights.out,
           bits,
           coders.codebook(),
           std::move(coded.trellis),
           halves(scales.suh),
           halves(svh),
           {}},
          facts};
}

}  // namespace fairway::quantize
