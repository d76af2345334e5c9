// Layer by layer: calibrate, factor, predict, then measure what the prediction is worth.
#include "quantize/measure_sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "codec/packing.h"
#include "fairway/error.h"
#include "quantize/changed_layer.h"
#include "quantize/code_profile.h"
#include "quantize/divergence_probe.h"
#include "quantize/ldlq.h"
#include "quantize/random_signs.h"

namespace fairway::quantize {
namespace {

constexpr double kLeastLoss = 1e-15;  // losses must be positive

// Experts of a layer are one part, its dense or shared MLP another.
using PartKey = std::pair<formats::LinearRole, SitePart>;

// One layer, or the head, while it is measured.
class SiteMeasurement {
 public:
  SiteMeasurement(std::vector<InputSite>& sites, double tokens, const std::string& model_dir,
                  const SensitivityOptions& options, kernels::KernelContext& context)
      : sites_(sites),
        tokens_(tokens),
        model_dir_(model_dir),
        options_(options),
        context_(context),
        scales_(scales_of(sites, options.factor, model_dir)) {}

  // Predicts for every matrix, and hands the noisy ones to change(matrix, values) if they belong to `key`.
  template <typename Change>
  double add_noise(const PartKey& key, Change change) {
    double predicted = 0;
    const CodeProfile profile = code_profile(options_.codebook, options_.probe_bits);
    for (const InputSite& site : sites_) {
      for (const SiteMatrix& matrix : site.matrices) {
        if (PartKey(matrix.spec.role, matrix.part) != key) continue;
        const BlockLdl& ldl = factor_of(site);
        const InputScales& scales = scales_.at(scale_key(site, options_.factor));
        const PlainWeights plain = load_plain(matrix, model_dir_);
        const std::uint64_t seed = options_.factor.seed;
        const std::vector<float> svh = output_scales(seed, plain, scales, profile.gain);
        const std::vector<float> inner = inner_weights(plain, scales, svh, context_);
        const std::vector<float> noisy =
            ldlq_noise(inner, plain.in, plain.out, ldl, std::sqrt(profile.mse) * profile.gain,
                       hash_of(matrix.spec.prefix, seed), context_);
        change(matrix, outer_weights(noisy, plain.in, plain.out, scales.suh, svh, context_));
        predicted += profile.mse * unit(site, matrix, plain);
      }
    }
    return predicted;
  }

  double unit(const InputSite& site, const SiteMatrix& matrix, const PlainWeights& plain) {
    auto [it, added] = units_.try_emplace(matrix.spec.prefix, 0);
    if (added) {
      it->second =
          unit_error(factor_of(site), plain, scales_.at(scale_key(site, options_.factor)), options_.factor.seed);
    }
    return it->second;
  }

  std::vector<PartKey> parts() const {
    std::vector<PartKey> parts;
    for (const InputSite& site : sites_) {
      for (const SiteMatrix& matrix : site.matrices) {
        const PartKey key(matrix.spec.role, matrix.part);
        if (std::find(parts.begin(), parts.end(), key) == parts.end()) parts.push_back(key);
      }
    }
    return parts;
  }

  // cost: what a unit of predicted error of a part costs in divergence. Needs no weights any more.
  void append(const std::map<PartKey, double>& cost, ModelSensitivity& result) {
    for (const InputSite& site : sites_) {
      for (const SiteMatrix& matrix : site.matrices) {
        const PartKey key(matrix.spec.role, matrix.part);
        LinearSensitivity& linear = result.linears.emplace_back();
        linear.prefix = matrix.spec.prefix;
        linear.role = matrix.spec.role;
        linear.layer = matrix.spec.layer;
        linear.expert = matrix.spec.expert;
        const std::int64_t in = codec::padded(matrix.spec.in), out = codec::padded(matrix.spec.out);
        linear.weights = in * out;
        linear.side_bytes = 2 * (in + out) + 4 + (matrix.spec.bias ? 2 * out : 0);
        const double unit = units_.at(matrix.spec.prefix) * cost.at(key);
        for (int bits = 1; bits <= kMaxBits; ++bits) {
          linear.loss[static_cast<std::size_t>(bits)] =
              std::max(unit, kLeastLoss) * code_profile(options_.codebook, bits).mse;
        }
      }
    }
  }

 private:
  const BlockLdl& factor_of(const InputSite& site) {
    if (factored_ != site.name) {  // the sites of a part come one after the other, so the last one is enough
      factor_ = {};
      factor_ = factor(site, scales_.at(scale_key(site, options_.factor)), tokens_, options_.factor, context_);
      factored_ = site.name;
    }
    return factor_;
  }

  std::vector<InputSite>& sites_;
  double tokens_;
  const std::string& model_dir_;
  const SensitivityOptions& options_;
  kernels::KernelContext& context_;
  std::map<std::string, InputScales> scales_;
  std::string factored_;  // the site of factor_
  BlockLdl factor_;
  std::map<std::string, double> units_;  // by module key
};

using Report = std::function<void(double, const std::string&)>;  // share of the layer, what

// One layer from its inputs to its costs. Its weights are let go before those of later layers are read.
void measure_layer(const model::Model& model, const std::string& model_dir, const SensitivityOptions& options,
                   CalibrationState& state, DivergenceProbe& probe, kernels::KernelContext& context,
                   const Report& report, ModelSensitivity& result) {
  constexpr double kInputs = 0.4, kParts = 0.1;  // of the time; the rest is later layers
  auto layer = std::make_unique<const model::SourceLayer>(model.read_layer(state.next_layer()));
  std::vector<InputSite> sites = layer_sites(model.config(), layer->weights, state.next_layer());
  probe.start_layer(state);
  state.advance(layer->weights, &sites, [&](double share) { report(kInputs * share, "inputs"); });
  SiteMeasurement measurement(sites, static_cast<double>(state.tokens()), model_dir, options, context);
  const std::vector<PartKey> parts = measurement.parts();
  std::vector<double> predicted;
  for (const PartKey& key : parts) {
    report(kInputs + kParts * static_cast<double>(predicted.size()) / static_cast<double>(parts.size()),
           fmt::format("{} {}", formats::linear_role_name(key.first), part_name(key.second)));
    ChangedLayer changed(layer->weights);
    predicted.push_back(measurement.add_noise(
        key, [&](const SiteMatrix& matrix, const std::vector<float>& values) { changed.replace(matrix, values); }));
    probe.change(changed.weights());
  }
  layer.reset();
  const std::vector<double> divergences = probe.divergences(
      [&](double share) { report(kInputs + kParts + (1 - kInputs - kParts) * share, "what follows it"); });
  std::map<PartKey, double> cost;
  for (std::size_t i = 0; i < parts.size(); ++i) cost[parts[i]] = divergences[i] / predicted[i];
  measurement.append(cost, result);
}

void measure_head(const model::Model& model, const std::string& model_dir, const SensitivityOptions& options,
                  CalibrationState& state, DivergenceProbe& probe, kernels::KernelContext& context,
                  ModelSensitivity& result) {
  std::vector<InputSite> head = head_sites(model);
  if (head.empty()) return;
  state.collect_head(head.front());
  SiteMeasurement measurement(head, static_cast<double>(state.tokens()), model_dir, options, context);
  const PartKey key(formats::LinearRole::kHead, SitePart::kHead);
  std::vector<float> storage;
  kernels::LinearWeights noisy;
  const double predicted = measurement.add_noise(key, [&](const SiteMatrix& matrix, const std::vector<float>& values) {
    noisy = replaced(matrix, values, storage);
  });
  measurement.append({{key, probe.with_head(noisy) / predicted}}, result);
}

}  // namespace

ModelSensitivity measure_sensitivity(const model::Model& model, const std::string& model_dir, std::vector<int> ids,
                                     const SensitivityOptions& options, const select::Policy& policy,
                                     kernels::KernelContext& context,
                                     const std::function<void(double, const std::string&)>& progress) {
  const int layers = model.config().num_hidden_layers;
  const auto report = [&](double layer, const std::string& what) {
    const std::atomic<bool>* cancel = options.calibration.cancel;
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
      throw Error(ErrorKind::kCancelled, "measuring was cancelled");
    }
    if (progress) progress(layer / (layers + 1), what);
  };
  report(0, "reference predictions");
  CalibrationState state(model, std::move(ids), options.calibration, policy, context);
  DivergenceProbe probe(model, state, options.probe_windows, options.probe_stride, policy, context);
  ModelSensitivity result;
  result.model = std::filesystem::path(model_dir).filename().string();
  for (int l = 0; l < layers; ++l) {
    measure_layer(
        model, model_dir, options, state, probe, context,
        [&](double share, const std::string& what) { report(l + share, fmt::format("layer {}: {}", l, what)); },
        result);
  }
  report(layers, "head");
  measure_head(model, model_dir, options, state, probe, context, result);
  return result;
}

}  // namespace fairway::quantize
