// attention_mla, scalar references of both forms: plain loops, sums in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_mla/bodies.h"
#include "kernels/dense_linear/dense_dot.h"

namespace fairway::kernels {
namespace {

// Element of kv_b's row `row` of head h.
double kv_b_element(const MlaArgs& args, int h, int row, int column) {
  const std::int64_t r = static_cast<std::int64_t>(h) * (args.nope + args.v) + row;
  return dense_element(*args.kv_b, r * args.latent + column);
}

void softmax(std::vector<double>& scores) {
  const double top = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& s : scores) sum += s = std::exp(s - top);
  for (double& s : scores) s /= sum;
}

double dot(const double* a, const float* b, int n) {
  double sum = 0;
  for (int k = 0; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

}  // namespace

void mla_absorbed_ref(const MlaArgs& args, KernelContext& context) {
  context.pool.parallel_for(static_cast<std::int64_t>(args.m) * args.heads, [&](std::int64_t task, int) {
    const int i = static_cast<int>(task / args.heads), h = static_cast<int>(task % args.heads);
    const float* const q = args.q + task * (args.nope + args.rope);
    std::vector<double> query(static_cast<std::size_t>(args.latent + args.rope), 0.0);
    for (int j = 0; j < args.nope; ++j) {
      for (int c = 0; c < args.latent; ++c) query[c] += q[j] * kv_b_element(args, h, j, c);
    }
    for (int j = 0; j < args.rope; ++j) query[args.latent + j] = q[args.nope + j];

    std::vector<double> p(static_cast<std::size_t>(args.start + i + 1));
    for (std::size_t t = 0; t < p.size(); ++t) {
      p[t] = args.scale *
             dot(query.data(), args.cache + static_cast<std::int64_t>(t) * args.cache_ld, args.latent + args.rope);
    }
    softmax(p);
    std::vector<double> mixed(static_cast<std::size_t>(args.latent), 0.0);
    for (std::size_t t = 0; t < p.size(); ++t) {
      const float* const row = args.cache + static_cast<std::int64_t>(t) * args.cache_ld;
      for (int c = 0; c < args.latent; ++c) mixed[c] += p[t] * row[c];
    }
    for (int j = 0; j < args.v; ++j) {
      double sum = 0;
      for (int c = 0; c < args.latent; ++c) sum += mixed[c] * kv_b_element(args, h, args.nope + j, c);
      args.out[task * args.v + j] = static_cast<float>(sum);
    }
  });
}

void mla_expanded_ref(const MlaArgs& args, KernelContext& context) {
  const int positions = args.start + args.m, width = args.nope + args.v;
  context.pool.parallel_for(args.m == 0 ? 0 : args.heads, [&](std::int64_t task, int) {
    const int h = static_cast<int>(task);
    std::vector<double> expanded(static_cast<std::size_t>(positions) * width, 0.0);  // [positions, nope + v] of head h
    for (int t = 0; t < positions; ++t) {
      const float* const latent = args.cache + t * args.cache_ld;
      for (int j = 0; j < width; ++j) {
        double sum = 0;
        for (int c = 0; c < args.latent; ++c) sum += latent[c] * kv_b_element(args, h, j, c);
        expanded[static_cast<std::size_t>(t) * width + j] = sum;
      }
    }
    for (int i = 0; i < args.m; ++i) {
      const std::int64_t row = static_cast<std::int64_t>(i) * args.heads + h;
      const float* const q = args.q + row * (args.nope + args.rope);
      std::vector<double> p(static_cast<std::size_t>(args.start + i + 1));
      for (std::size_t t = 0; t < p.size(); ++t) {
        const float* const key_rope = args.cache + static_cast<std::int64_t>(t) * args.cache_ld + args.latent;
        double score = dot(expanded.data() + t * width, q, args.nope);
        for (int j = 0; j < args.rope; ++j) score += static_cast<double>(q[args.nope + j]) * key_rope[j];
        p[t] = args.scale * score;
      }
      softmax(p);
      for (int j = 0; j < args.v; ++j) {
        double sum = 0;
        for (std::size_t t = 0; t < p.size(); ++t) sum += p[t] * expanded[t * width + args.nope + j];
        args.out[row * args.v + j] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace fairway::kernels
