// Making a random expert layer, and its outputs in double precision.
#include "kernels/moe_swiglu/cuda/problem.cuh"

#include <algorithm>
#include <cmath>

#include "codec/trellis.h"

namespace fairway::kernels::cuda::check {

Problem::Problem(const LayerShape& shape, int max_tokens) : shape_(shape) {
  Random random(shape.seed);
  const std::vector<float> common = random_scales(random, shape.hidden, 1.0f);
  const __half* common_device = shape.common_suh ? device_.upload(to_halves(common)) : nullptr;
  const std::vector<float>* host_suh = shape.common_suh ? &common : nullptr;
  std::vector<ExpertRef> refs;
  layer_ = {nullptr, shape.routed, shape.shared, shape.top_k, shape.hidden, shape.max_intermediate,
            {},      true,         common_device};
  for (int e = 0; e < experts(); ++e) {
    // The first expert has the largest size, so that max_intermediate is reached.
    const int intermediate = e == 0 ? shape.max_intermediate : 128 * (1 + random.below(shape.max_intermediate / 128));
    host_.push_back({random_matrix(random, shape.hidden, intermediate, shape.bits, shape.codebook, host_suh),
                     random_matrix(random, shape.hidden, intermediate, shape.bits, shape.codebook, host_suh),
                     random_matrix(random, intermediate, shape.hidden, shape.bits, shape.codebook, nullptr),
                     intermediate});
    const HostExpert& h = host_.back();
    ExpertRef ref{};
    ref.gate = device_.matrix(h.gate, common_device);
    ref.up = device_.matrix(h.up, common_device);
    ref.down = device_.matrix(h.down, nullptr);
    ref.intermediate = intermediate;
    refs.push_back(ref);
    layer_.widths.include(ref);
    for (const HostMatrix* m : {&h.gate, &h.up, &h.down}) {
      layer_.all_mul1 &= m->codebook == static_cast<int>(codec::Codebook::kMul1);
    }
  }
  layer_.experts = device_.upload(refs);
  for (int i = 0; i < max_tokens * shape.hidden; ++i) {
    x_.push_back(i / shape.hidden == 4 ? 0.0f : rounded_to_half(random.normal()));  // one token of zeros
  }
  x_device_ = device_.upload(to_halves(x_));
}

const std::vector<double>& Problem::expert_output(int token, int expert) {
  std::vector<double>& y = outputs_[{token, expert}];
  if (!y.empty()) return y;
  const HostExpert& e = host_[expert];
  const auto begin = x_.begin() + static_cast<std::ptrdiff_t>(token) * shape_.hidden;
  const std::vector<double> x(begin, begin + shape_.hidden);
  std::vector<double> gate = e.gate.apply(x);
  const std::vector<double> up = e.up.apply(x);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  y = e.down.apply(gate);
  return y;
}

}  // namespace fairway::kernels::cuda::check
