// Models, contests, regrets.
#include "cli/bench_selection_device.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>

#include "backend/cuda/device.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "cli/synth.h"
#include "fairway/error.h"
#include "formats/config.h"
#include "model/device_model.h"
#include "model/path_contest.h"

namespace fairway::cli {
namespace {

const std::vector<int> kRows = {1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024};
constexpr int kMostSequences = 64;  // of a decode step
// Of a model: more than enough that weights of one layer have left the L2 cache before its next turn.
constexpr int kModelLayers = 5;

// A call's shape at a number of rows.
struct DeviceSelectionCell {
  std::string model, bits;
  model::PathEntry entry;
  const model::PathTime* best = nullptr;  // among entry.measured
  double rule_regret = 0, tuned_regret = 0;
};

struct DeviceStudy {
  std::vector<DeviceSelectionCell> cells;
  Json models = Json::array();
  bool complete = true;
  int unsteady = 0;  // kinds of calls whose times did not agree, which have no cell
};

// The dense layers, one at most, and experts after it.
formats::ModelConfig shortened(formats::ModelConfig config) {
  std::vector<bool> kinds;
  const auto first = std::find(config.layer_is_moe.begin(), config.layer_is_moe.end(), true);
  if (first != config.layer_is_moe.begin()) kinds.push_back(false);
  const auto left = static_cast<std::size_t>(config.layer_is_moe.end() - first);
  kinds.insert(kinds.end(), std::min(left, kModelLayers - kinds.size()), true);
  config.layer_is_moe = kinds;
  config.num_hidden_layers = static_cast<int>(kinds.size());
  return config;
}

int mean_width(const std::vector<kernels::BitTuple>& tuples) {
  double sum = 0;
  for (const kernels::BitTuple& t : tuples) sum += t.gate + t.up + t.down;
  return static_cast<int>(std::lround(sum / (3 * static_cast<double>(tuples.size()))));
}

// The judging samples of all paths that were in every round.
void find_regrets(DeviceSelectionCell& cell) {
  const model::PathEntry& entry = cell.entry;
  for (const model::PathTime& time : entry.measured) {
    if (time.samples == entry.samples && (cell.best == nullptr || time.us < cell.best->us)) cell.best = &time;
  }
  cell.rule_regret = entry.default_us / cell.best->us - 1;
  cell.tuned_regret = std::max(0.0, entry.us / cell.best->us - 1);
}

void study_model(const DeviceSelectionOptions& options, const std::string& config_file, const std::string& bits,
                 DeviceStudy& study) {
  using Clock = std::chrono::steady_clock;
  model::RandomWeights weights;
  weights.expert_bits = parse_bit_tuples(bits);
  weights.attention_bits = weights.dense_bits = mean_width(weights.expert_bits);
  weights.codebook = codebook_named(options.codebook);
  const formats::ModelConfig config =
      shortened(formats::parse_model_config(read_file(config_file, "--config"), config_file));
  model::DeviceModelOptions placed = *device_model_options(options.device);
  placed.pass_rows = placed.context = options.rows.back();
  for (const int rows : options.rows) {
    if (rows <= kMostSequences) placed.sequences = rows;  // ascending
  }
  model::DeviceModel device = model::DeviceModel::random(config, weights, placed);
  model::PathTuneOptions tune;
  tune.rows = options.rows;
  tune.rounds = tune.judging_rounds = options.rounds;
  tune.layers = kModelLayers;
  tune.budget_seconds = options.seconds;
  const std::string name = std::filesystem::path(config_file).stem().string();
  Progress progress(fmt::format("{} at {} bits", name, bits));
  tune.progress = [&](double share) {
    throw_if_cancelled("measuring");
    progress.update(share);
  };
  bool complete = false;
  const auto begin = Clock::now();
  const model::PathTable table = device.tune_paths(tune, &complete);
  progress.clear();
  study.complete = study.complete && complete;
  Json chains = Json::array();
  for (const model::PathChain& chain : table.chains) {
    chains.push_back({{"rows", chain.rows}, {"rules_us", chain.default_us}, {"table_us", chain.us}});
  }
  study.models.push_back({{"model", name},
                          {"expert_bits", bits},
                          {"attention_bits", weights.attention_bits},
                          {"layers", config.num_hidden_layers},
                          {"seconds", std::chrono::duration<double>(Clock::now() - begin).count()},
                          {"stop", complete ? "complete" : "out_of_time"},
                          {"chains", std::move(chains)}});
  for (const model::PathEntry& entry : table.entries) {
    // Calls that the noise of a chain hides have no regret.
    if (std::any_of(entry.measured.begin(), entry.measured.end(), [](const auto& time) { return time.us <= 0; })) {
      continue;
    }
    if (entry.spread > model::kQuietSpread) {
      ++study.unsteady;
      continue;
    }
    study.cells.push_back({name, bits, entry, nullptr, 0, 0});
  }
}

Json regret_json(const std::vector<DeviceSelectionCell>& cells, double DeviceSelectionCell::*field,
                 const std::string& op) {
  double sum = 0, most = 0;
  int count = 0;
  const DeviceSelectionCell* worst = nullptr;
  for (const DeviceSelectionCell& cell : cells) {
    if (!op.empty() && op != cell.entry.row->op) continue;
    ++count;
    sum += cell.*field;
    if (worst == nullptr || cell.*field > most) {
      most = cell.*field;
      worst = &cell;
    }
  }
  return {{"calls", count},
          {"mean", count == 0 ? 0 : sum / count},
          {"max", most},
          {"worst", worst == nullptr ? ""
                                     : fmt::format("{}, {} bits, {} rows: {}", worst->model, worst->bits,
                                                   worst->entry.rows, worst->entry.shape)}};
}

Json regrets_json(const std::vector<DeviceSelectionCell>& cells, double DeviceSelectionCell::*field) {
  Json json = regret_json(cells, field, "");
  json["experts"] = regret_json(cells, field, "moe_swiglu");
  json["linears"] = regret_json(cells, field, "trellis_linear");
  return json;
}

double rounded(double us) {
  return std::round(us * 100) / 100;
}

Json cell_json(const DeviceSelectionCell& cell) {
  const model::PathEntry& entry = cell.entry;
  Json measured = Json::array();
  for (const model::PathTime& time : entry.measured) {
    measured.push_back({{"path", time.row->path}, {"us", rounded(time.us)}, {"samples", time.samples}});
  }
  return {{"model", cell.model},
          {"expert_bits", cell.bits},
          {"op", entry.row->op},
          {"shape", entry.shape},
          {"rows", entry.rows},
          {"best", cell.best->row->path},
          {"best_us", rounded(cell.best->us)},
          {"rules", entry.default_row->path},
          {"rules_regret", cell.rule_regret},
          {"tuned", entry.row->path},
          {"tuned_regret", cell.tuned_regret},
          {"spread", std::round(entry.spread * 1e4) / 1e4},
          {"measured", std::move(measured)}};
}

std::string text_of(const DeviceStudy& study, const Json& regret) {
  std::string text = fmt::format("{:>5} {:<12} {:>9} {:<12} {:>7} {:<12} {:>7}  call\n", "rows", "best", "us a call",
                                 "rules", "", "tuned", "");
  for (const DeviceSelectionCell& cell : study.cells) {
    text += fmt::format("{:>5} {:<12} {:>9.1f} {:<12} {:>6.1f}% {:<12} {:>6.1f}%  {}, {} bits: {}\n", cell.entry.rows,
                        cell.best->row->path, cell.best->us, cell.entry.default_row->path, 100 * cell.rule_regret,
                        cell.entry.row->path, 100 * cell.tuned_regret, cell.model, cell.bits, cell.entry.shape);
  }
  if (study.unsteady > 0) {
    text += fmt::format("\n{} kinds of calls are left out: their times did not agree; does something else run there?\n",
                        study.unsteady);
  }
  text += "\nregret (fraction of the best path's time), mean and worst:\n";
  for (const char* kind : {"rules", "tuned"}) {
    for (const char* which : {"", "experts", "linears"}) {
      const Json& r = *which == '\0' ? regret[kind] : regret[kind][which];
      text += fmt::format("  {:<6} {:<8} {:6.2f} % {:6.2f} %  of {} ({})\n", kind, *which == '\0' ? "all" : which,
                          100 * r["mean"].get<double>(), 100 * r["max"].get<double>(), r["calls"].get<int>(),
                          r["worst"].get<std::string>());
    }
  }
  return text;
}

}  // namespace

int bench_device_selection(DeviceSelectionOptions options, bool json) {
  if (options.configs.empty()) {
    throw Error(ErrorKind::kUsage, "with --device give --config FILE, once or more; --geometry is for the CPU");
  }
  if (options.rows.empty()) options.rows = kRows;
  std::sort(options.rows.begin(), options.rows.end());
  options.rows.erase(std::unique(options.rows.begin(), options.rows.end()), options.rows.end());
  DeviceStudy study;
  for (const std::string& config : options.configs) {
    for (const std::string& bits : options.bits) study_model(options, config, bits, study);
  }
  for (DeviceSelectionCell& cell : study.cells) find_regrets(cell);  // once the cells no longer move
  const Json regret = {{"rules", regrets_json(study.cells, &DeviceSelectionCell::rule_regret)},
                       {"tuned", regrets_json(study.cells, &DeviceSelectionCell::tuned_regret)}};
  if (!options.output.empty() || json) {
    Json results = Json::array();
    for (const DeviceSelectionCell& cell : study.cells) results.push_back(cell_json(cell));
    Json document = result_header("fairway-cuda-selection-1", "cuda_selection", command_line());
    document.update({{"gpu", backend::cuda_device_info(device_model_options(options.device)->device).name},
                     {"options",
                      {{"rounds", options.rounds},
                       {"rows", options.rows},
                       {"codebook", options.codebook},
                       {"seconds_of_a_model", options.seconds}}},
                     {"stop", study.complete ? "complete" : "out_of_time"},
                     {"unsteady", study.unsteady},
                     {"models", study.models},
                     {"regret", regret},
                     {"results", std::move(results)}});
    if (!options.output.empty()) write_text_file(options.output, json_text(document), "--output");
    if (json) print_json(document);
  }
  if (!json) print_text(text_of(study, regret));
  return kExitOk;
}

}  // namespace fairway::cli
