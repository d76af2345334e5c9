// Layer by layer: calibrate, then code what is missing; a layer that is done is only run.
#include "quantize/code_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "codec/half.h"
#include "codec/packing.h"
#include "quantize/stage_timer.h"

namespace fairway::quantize {
namespace {

constexpr double kCalibrationShare = 0.1;  // of a layer's progress

bool is_done(const InputSite& site, const CodeSink& sink) {
  return std::all_of(site.matrices.begin(), site.matrices.end(),
                     [&](const SiteMatrix& matrix) { return sink.is_done(matrix.spec.prefix); });
}

bool all_done(const std::vector<InputSite>& sites, const CodeSink& sink) {
  return std::all_of(sites.begin(), sites.end(), [&](const InputSite& site) { return is_done(site, sink); });
}

class LayerCoder {
 public:
  LayerCoder(const std::string& model_dir, double tokens, const CodeOptions& options, const CodeSink& sink,
             TileCoders& coders, kernels::KernelContext& context, CodeSeconds& seconds)
      : model_dir_(model_dir),
        tokens_(tokens),
        options_(options),
        sink_(sink),
        coders_(coders),
        context_(context),
        seconds_(seconds) {}

  // report(share of the sites' matrices that is coded).
  void code(const std::vector<InputSite>& sites, const std::function<void(double)>& report) {
    const auto scales = timed(seconds_.factors, [&] { return scales_of(sites, options_.factor, model_dir_); });
    std::int64_t total = 0;
    for (const InputSite& site : sites) {
      for (const SiteMatrix& matrix : site.matrices) total += columns(matrix);
    }
    std::mutex mutex;
    std::int64_t done = 0;
    const auto advance = [&](std::int64_t count) {
      const std::lock_guard lock(mutex);
      done += count;
      report(static_cast<double>(done) / static_cast<double>(total));
    };
    for (const InputSite& site : sites) {
      if (is_done(site, sink_)) {
        for (const SiteMatrix& matrix : site.matrices) advance(columns(matrix));
        continue;
      }
      const InputScales& own = scales.at(scale_key(site, options_.factor));
      const BlockLdl ldl =
          timed(seconds_.factors, [&] { return factor(site, own, tokens_, options_.factor, context_); });
      const StageTimer timer(seconds_.coding);
      for (const SiteMatrix& matrix : site.matrices) {
        if (sink_.is_done(matrix.spec.prefix)) {
          advance(columns(matrix));
        } else {
          code_matrix(site, matrix, own, ldl, [&] { advance(1); });
        }
      }
    }
  }

 private:
  static std::int64_t columns(const SiteMatrix& matrix) { return codec::padded(matrix.weights->out) / codec::kTileDim; }

  void code_matrix(const InputSite& site, const SiteMatrix& matrix, const InputScales& scales, const BlockLdl& ldl,
                   const std::function<void()>& after_column) {
    const PlainWeights plain = load_plain(matrix, model_dir_);
    CodedLinear coded = code_linear(plain, scales, site.moments, ldl, sink_.width(matrix.spec.prefix),
                                    options_.factor.seed, coders_, context_, after_column, options_.calibration.cancel);
    if (const float* bias = matrix.weights->dense().bias; bias != nullptr) {
      coded.linear.bias.resize(static_cast<std::size_t>(plain.out));
      for (int j = 0; j < matrix.weights->out; ++j) {
        coded.linear.bias[static_cast<std::size_t>(j)] = codec::half_from_float(bias[j]);
      }
    }
    sink_.done(coded, {coded.facts, site.rows, site.borrowed, site.moments.dropped()});
  }

  const std::string& model_dir_;
  double tokens_;
  const CodeOptions& options_;
  const CodeSink& sink_;
  TileCoders& coders_;
  kernels::KernelContext& context_;
  CodeSeconds& seconds_;
};

}  // namespace

CodeSeconds code_model(const model::Model& model, const std::string& model_dir, std::vector<int> ids,
                       const CodeOptions& options, const CodeSink& sink, const select::Policy& policy,
                       kernels::KernelContext& context) {
  CodeSeconds seconds;
  if (std::all_of(options.prefixes.begin(), options.prefixes.end(), sink.is_done)) return seconds;
  const int layers = model.config().num_hidden_layers;
  CalibrationState state(model, std::move(ids), options.calibration, policy, context);
  TileCoders coders(options.codebook, context.pool.size());
  LayerCoder coder(model_dir, static_cast<double>(state.tokens()), options, sink, coders, context, seconds);
  const auto report = [&](double done, const std::string& what) {
    if (sink.progress) sink.progress(done / (layers + 1), what);
  };
  for (int l = 0; l < layers; ++l) {
    const model::SourceLayer layer = model.read_layer(l);
    std::vector<InputSite> sites = layer_sites(model.config(), layer.weights, l);
    const bool done = all_done(sites, sink);
    timed(seconds.calibration, [&] {
      state.advance(layer.weights, done ? nullptr : &sites, [&](double share) {
        report(l + kCalibrationShare * share, fmt::format("layer {}/{}: calibration", l + 1, layers));
      });
    });
    if (done) continue;
    coder.code(sites, [&](double share) {
      report(l + kCalibrationShare + (1 - kCalibrationShare) * share,
             fmt::format("layer {}/{}: coding", l + 1, layers));
    });
  }
  std::vector<InputSite> head = head_sites(model);
  if (head.empty() || all_done(head, sink)) return seconds;
  report(layers, "head: calibration");
  timed(seconds.calibration, [&] { state.collect_head(head.front()); });
  coder.code(head, [&](double share) { report(layers + share, "head: coding"); });
  return seconds;
}

}  // namespace fairway::quantize
