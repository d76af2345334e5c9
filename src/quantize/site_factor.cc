// Scales from all matrices of a site, factors from its moments.
#include "quantize/site_factor.h"

namespace fairway::quantize {

const std::string& scale_key(const InputSite& site, const FactorOptions& options) {
  return options.shared_inputs ? site.scale_name : site.name;
}

std::map<std::string, InputScales> scales_of(const std::vector<InputSite>& sites, const FactorOptions& options,
                                             const std::string& model_dir) {
  std::map<std::string, InputPower> powers;
  for (const InputSite& site : sites) {
    InputPower& power = powers.try_emplace(scale_key(site, options), site.moments.dim()).first->second;
    for (const SiteMatrix& matrix : site.matrices) power.add(load_plain(matrix, model_dir));
    power.add(site.moments);
  }
  std::map<std::string, InputScales> scales;
  for (const auto& [name, power] : powers) scales[name] = input_scales(name, options.seed, power, options.exponents);
  return scales;
}

BlockLdl factor(const InputSite& site, const InputScales& scales, double tokens, const FactorOptions& options,
                kernels::KernelContext& context) {
  std::vector<double> h = inner_hessian(site.moments, tokens, scales, context);
  double trace = 0;
  for (std::size_t i = 0, n = static_cast<std::size_t>(site.moments.dim()); i < n; ++i) trace += h[i * n + i];
  // An input that calibration never saw: no direction is worth more than another.
  if (!(trace > 0)) {
    for (std::size_t i = 0, n = static_cast<std::size_t>(site.moments.dim()); i < n; ++i) h[i * n + i] = 1e-12;
  }
  return block_ldl(h, site.moments.dim(), options.damping, context);
}

double unit_error(const BlockLdl& ldl, const PlainWeights& weights, const InputScales& scales, std::uint64_t seed) {
  double squares = 0;
  for (const float s : output_scales(seed, weights, scales, /*gain=*/1)) squares += static_cast<double>(s) * s;
  return ldl.trace * squares;
}

}  // namespace fairway::quantize
