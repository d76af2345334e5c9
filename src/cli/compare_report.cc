// The table and the JSON document of `fairway compare`.
#include <fmt/chrono.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <numeric>

#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/inventory.h"
#include "cli/report.h"

namespace fairway::cli {
namespace {

using engine::CandidateScore;
using engine::Engine;
using engine::ModelScore;

std::string last_component(const std::string& model) {
  std::filesystem::path path = std::filesystem::absolute(model).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

double mean_divergence(const CandidateScore& score) {
  return score.divergence_sum / static_cast<double>(score.divergences.size());
}

// Of the mean over windows, from how much windows differ; tokens of one window are not independent of each other.
double standard_error(const std::vector<double>& windows) {
  const double n = static_cast<double>(windows.size());
  const double mean = std::accumulate(windows.begin(), windows.end(), 0.0) / n;
  double squares = 0;
  for (const double value : windows) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / (n - 1) / n);
}

std::vector<double> layer_errors(const CandidateScore& score) {
  std::vector<double> errors(score.layer_difference.size());
  for (std::size_t l = 0; l < errors.size(); ++l) {
    errors[l] = std::sqrt(score.layer_difference[l] / score.layer_reference[l]);
  }
  return errors;
}

double perplexity(const CompareRun& run, const ModelScore& score) {
  return std::exp(score.negative_log / static_cast<double>(run.comparison.tokens()));
}

double tokens_per_second(const CompareRun& run, const ModelScore& score) {
  return static_cast<double>(run.comparison.evaluated()) / score.seconds;
}

Inventory inventory_of(const Engine& engine) {
  return take_inventory(engine.model().config(), engine.model().checkpoint());
}

Json coded_json(const CodedSize& coded) {
  if (coded.matrices == 0) return nullptr;
  return {{"matrices", coded.matrices},
          {"weights", coded.weights},
          {"padded_weights", coded.padded_weights},
          {"code_bytes", coded.code_bytes},
          {"side_bytes", coded.side_bytes},
          {"bits_per_weight", coded.codes().bits()},
          {"bits_per_weight_with_sides", coded.all().bits()},
          {"bits_per_padded_weight", coded.padded_codes().bits()}};
}

Json size_json(const Engine& engine) {
  const Inventory inventory = inventory_of(engine);
  return {{"file_bytes", engine.model().checkpoint().file_bytes()},
          {"bits_per_weight", inventory.total().bits()},
          {"coded", coded_json(inventory.coded_total(true))},
          {"coded_without_head", coded_json(inventory.coded_total(false))},
          {"roles", roles_json(inventory)},
          {"expert_bit_tuples", expert_bits_json(inventory)}};
}

Json score_json(const CompareRun& run, std::size_t index, const std::string& name, const ModelScore& score) {
  const Engine& engine = run.engines[index];
  const bool any = run.comparison.windows() > 0;
  return {{"name", name},
          {"perplexity", any ? Json(perplexity(run, score)) : Json(nullptr)},
          {"tokens_per_second", any ? Json(tokens_per_second(run, score)) : Json(nullptr)},
          {"size", size_json(engine)},
          {"load_seconds", engine.load_seconds()},
          {"kernels", kernels_json(engine.counters())},
          {"counters", counters_json(engine.counters())},
          {"model", model_json(engine.model())}};
}

Json divergence_json(const CandidateScore& score) {
  const auto at = [&](double q) { return engine::quantile(score.divergences, q); };
  const std::vector<double>& windows = score.window_divergences;
  return {{"mean", mean_divergence(score)},
          {"standard_error", windows.size() > 1 ? Json(standard_error(windows)) : Json(nullptr)},
          {"p50", at(0.5)},
          {"p99", at(0.99)},
          {"max", at(1.0)},
          {"by_window", windows}};
}

Json candidate_json(const CompareRun& run, std::size_t c, const std::string& name) {
  const CandidateScore& score = run.comparison.candidate(c);
  Json json = score_json(run, c + 1, name, score);
  const bool any = run.comparison.windows() > 0;
  json["divergence"] = any ? divergence_json(score) : Json(nullptr);
  json["same_top"] =
      any ? Json(static_cast<double>(score.same_top) / static_cast<double>(run.comparison.tokens())) : Json(nullptr);
  json["layer_error"] = score.layer_difference.empty() ? Json(nullptr) : Json(layer_errors(score));
  return json;
}

std::string score_line(const CompareRun& run, std::size_t index, const std::string& name, std::size_t width) {
  const engine::Comparison& comparison = run.comparison;
  const bool is_reference = index == 0;
  const ModelScore& score = is_reference ? comparison.reference() : comparison.candidate(index - 1);
  std::string text = fmt::format("{:<{}} {:>10.4f}", name, width, perplexity(run, score));
  if (is_reference) {
    text += fmt::format(" {:>19} {:>9} {:>9} {:>9}", "reference", "-", "-", "-");
  } else {
    const CandidateScore& other = comparison.candidate(index - 1);
    const auto& windows = other.window_divergences;
    const std::string error = windows.size() > 1 ? fmt::format(" ±{:.5f}", standard_error(windows)) : "";
    text += fmt::format(" {:>19} {:>9.4f} {:>9.3f} {:>8.2f}%", fmt::format("{:.5f}{}", mean_divergence(other), error),
                        engine::quantile(other.divergences, 0.99), engine::quantile(other.divergences, 1.0),
                        100 * static_cast<double>(other.same_top) / static_cast<double>(comparison.tokens()));
  }
  const CodedSize coded = inventory_of(run.engines[index]).coded_total(true);
  const std::string bits =
      coded.matrices == 0 ? "-" : fmt::format("{:.3f} / {:.3f}", coded.codes().bits(), coded.all().bits());
  text += fmt::format(" {:>9} {:>9} {:>15} {:>9.0f}\n",
                      human_bytes(static_cast<double>(run.engines[index].model().checkpoint().file_bytes())),
                      coded.matrices == 0 ? "-" : human_bytes(static_cast<double>(coded.all().bytes)), bits,
                      tokens_per_second(run, score));
  return text;
}

std::size_t column_width(const std::string& name) {
  return std::max<std::size_t>(7, name.size());
}

std::string layer_table(const CompareRun& run, const std::vector<std::string>& names) {
  std::vector<std::vector<double>> errors;
  std::string header = "layer";
  for (std::size_t c = 0; c < run.comparison.candidates(); ++c) {
    errors.push_back(layer_errors(run.comparison.candidate(c)));
    if (!errors.back().empty()) header += fmt::format("  {:>{}}", names[c + 1], column_width(names[c + 1]));
  }
  std::size_t layers = 0;
  for (const auto& column : errors) layers = std::max(layers, column.size());
  if (layers == 0) return "";
  std::string text = fmt::format(
      "\nerror of the hidden state after each layer (RMS of the difference / RMS of the reference's), first {} "
      "windows\n"
      "{}\n",
      std::min<std::int64_t>(run.options.layer_windows, run.comparison.windows()), header);
  for (std::size_t l = 0; l < layers; ++l) {
    text += fmt::format("{:>5}", l);
    for (std::size_t c = 0; c < errors.size(); ++c) {
      if (!errors[c].empty()) text += fmt::format("  {:>{}.5f}", errors[c][l], column_width(names[c + 1]));
    }
    text += "\n";
  }
  return text;
}

}  // namespace

std::vector<std::string> short_names(const std::vector<std::string>& models) {
  std::vector<std::string> names;
  names.reserve(models.size());
  for (const std::string& model : models) names.push_back(last_component(model));
  const std::vector<std::string> shorts = names;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (std::count(shorts.begin(), shorts.end(), shorts[i]) > 1) names[i] = models[i];
  }
  return names;
}

std::string compare_text(const CompareRun& run) {
  const std::vector<std::string> names = short_names(run.options.models);
  std::size_t width = 5;
  for (const std::string& name : names) width = std::max(width, name.size());
  std::string text =
      fmt::format("{:<{}} {:>10} {:>19} {:>9} {:>9} {:>9} {:>9} {:>9} {:>15} {:>9}\n", "model", width, "perplexity",
                  "divergence", "p99", "max", "same top", "files", "coded", "bits/weight", "tokens/s");
  for (std::size_t i = 0; i < names.size(); ++i) text += score_line(run, i, names[i], width);
  text += layer_table(run, names);
  text += fmt::format(
      "\n{} predictions in {} windows of {}, {:.1f} s. divergence: mean D(reference || model) in nats per token; "
      "coded:\n"
      "bytes of trellis-coded matrices, padding included; bits/weight: of them, without / with their scale vectors\n",
      run.comparison.tokens(), run.comparison.windows(), run.plan.length, run.seconds);
  return text;
}

Json compare_json(const CompareRun& run) {
  const std::vector<std::string> names = short_names(run.options.models);
  Json candidates = Json::array();
  for (std::size_t c = 0; c < run.comparison.candidates(); ++c) {
    candidates.push_back(candidate_json(run, c, names[c + 1]));
  }
  Json document = result_header("fairway-compare-1", "compare", command_line());
  document.update({{"options",
                    {{"threads", run.engines.front().threads()},
                     {"stride", run.plan.stride},
                     {"layer_windows", run.options.layer_windows},
                     {"backend", run.options.kernels.backend},
                     {"activations", run.options.kernels.activations},
                     {"kernel", run.options.kernels.kernel}}},
                   {"source", run.options.windows.source()},
                   {"window", run.plan.length},
                   {"windows", run.comparison.windows()},
                   {"tokens", run.comparison.tokens()},
                   {"seconds", run.seconds},
                   {"stop", run.cancelled ? "cancelled" : "complete"},
                   {"peak_memory_bytes", peak_memory_bytes()},
                   {"reference", score_json(run, 0, names[0], run.comparison.reference())},
                   {"candidates", std::move(candidates)}});
  return document;
}

}  // namespace fairway::cli
