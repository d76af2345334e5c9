// attention_gqa, scalar reference: plain loops, sums in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_gqa/bodies.h"

namespace fairway::kernels {

void gqa_ref(const GqaArgs& args, KernelContext& context) {
  context.pool.parallel_for(static_cast<std::int64_t>(args.m) * args.heads, [&](std::int64_t task, int) {
    const auto i = static_cast<int>(task / args.heads), h = static_cast<int>(task % args.heads);
    const std::int64_t column = static_cast<std::int64_t>(h / (args.heads / args.kv_heads)) * args.dim;
    const float* const q = args.q + task * args.dim;
    std::vector<double> p(static_cast<std::size_t>(args.start + i + 1));
    for (std::size_t t = 0; t < p.size(); ++t) {
      const float* const key = args.keys + static_cast<std::int64_t>(t) * args.cache_ld + column;
      double score = 0;
      for (int d = 0; d < args.dim; ++d) score += static_cast<double>(q[d]) * key[d];
      p[t] = args.scale * score;
    }
    const double top = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& s : p) sum += s = std::exp(s - top);
    for (int d = 0; d < args.dim; ++d) {
      double mixed = 0;
      for (std::size_t t = 0; t < p.size(); ++t) {
        mixed += p[t] * args.values[static_cast<std::int64_t>(t) * args.cache_ld + column + d];
      }
      args.out[task * args.dim + d] = static_cast<float>(mixed / sum);
    }
  });
}

}  // namespace fairway::kernels
