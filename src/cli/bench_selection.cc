// fairway bench selection: how far from the best kernel the choices of rules, tuning and learning are.
#include <fmt/chrono.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <map>
#include <memory>

#include "backend/cpu/features.h"
#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"
#include "cli/bench.h"
#include "cli/bench_selection_device.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/selection_study.h"
#include "cli/signals.h"
#include "fairway/error.h"
#include "select/autotuner.h"
#include "select/synthetic_layer.h"

namespace fairway::cli {
namespace {

const std::vector<int> kTokens = {1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32, 33, 48, 64, 128, 256, 512};
constexpr int kDecisions = 200'000;

struct SelectionOptions {
  std::vector<std::string> geometries, mixes;
  std::vector<int> batch;
  std::string output, tune_mix = "mixed 2/3/4";
  KernelOptions kernels;
  int threads = 0, rounds = 15, pool_mib = 1024;
  double tune_seconds = 60;
  DeviceSelectionOptions on_device;  // if its device is not cpu
};

const select::BitMix& mix_named(const std::string& name) {
  std::string names;
  for (const select::BitMix& mix : select::known_mixes()) {
    if (mix.name == name) return mix;
    names += (names.empty() ? "'" : "', '") + mix.name;
  }
  throw Error(ErrorKind::kUsage, fmt::format("bit mix '{}' does not exist; known: {}'", name, names));
}

struct Study {
  std::vector<SelectionCell> cells;
  Json tuning = Json::array();     // one entry per geometry
  Json decision = Json::object();  // nanoseconds
  bool complete = true;
};

// p50 and p99 of decisions on a call that was met before, the clock's own time included.
Json decision_cost(const select::SelectorOptions& options, const select::MoeLayerTraits& traits) {
  select::SelectorOptions learning = options;
  learning.learn = true;
  select::KernelSelector selector(learning);
  selector.decide(traits, 1);
  std::vector<double> nanoseconds;
  nanoseconds.reserve(kDecisions);
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < kDecisions; ++i) {
    const auto start = Clock::now();
    selector.decide(traits, 1);
    nanoseconds.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count());
  }
  const auto quantile = [&](double q) {
    const auto at = nanoseconds.begin() + static_cast<std::ptrdiff_t>(q * (kDecisions - 1));
    std::nth_element(nanoseconds.begin(), at, nanoseconds.end());
    return *at;
  };
  return {{"p50", quantile(0.5)}, {"p99", quantile(0.99)}, {"decisions", kDecisions}};
}

select::TunedTable tune(const SelectionOptions& options, const select::SelectorOptions& selector,
                        const select::MoeGeometry& geometry, kernels::KernelContext& context, Study& study) {
  if (options.tune_seconds <= 0) return {};
  const select::SyntheticLayers layers(geometry, mix_named(options.tune_mix), codec::Codebook::kMul1,
                                       std::int64_t{options.pool_mib} << 20);
  Progress progress(fmt::format("tuning {}", geometry.name));
  select::TuneOptions tuning;
  tuning.policy = selector.policy;
  tuning.budget_seconds = options.tune_seconds;
  tuning.iterations = 1000;
  tuning.cancel = &cancel_requested();
  tuning.progress = [&](int done, int total, const std::string& what) {
    progress.update(static_cast<double>(done) / total, what);
  };
  select::MixedBPWAutoTuner tuner;
  const auto report = tuner.tune(layers.layers(), options.batch, tuning, context);
  study.tuning.push_back({{"geometry", geometry.name},
                          {"mix", options.tune_mix},
                          {"seconds", report.seconds},
                          {"samples", report.calls},
                          {"layers", layers.layers().size()},
                          {"layer_bytes", layers.layer_bytes()}});
  return tuner.table();
}

Study run_study(const SelectionOptions& options, const select::SelectorOptions& selector) {
  Study study;
  backend::ThreadPool pool(selector.threads);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  Progress progress("selection");
  const double total = static_cast<double>(options.geometries.size() * options.mixes.size() * options.batch.size());
  for (const std::string& name : options.geometries) {
    const select::MoeGeometry& geometry = select::geometry(name);
    const select::TunedTable table = tune(options, selector, geometry, context, study);
    for (const std::string& mix : options.mixes) {
      const select::SyntheticLayers layers(geometry, mix_named(mix), codec::Codebook::kMul1,
                                           std::int64_t{options.pool_mib} << 20);
      if (study.decision.empty()) study.decision = decision_cost(selector, layers.layers().front().traits);
      for (const int tokens : options.batch) {
        progress.update(static_cast<double>(study.cells.size()) / total,
                        fmt::format("{} {}, {} tokens", name, mix, tokens));
        select::CallTimer timer(layers.layers(), tokens, context);
        SelectionCell cell;
        cell.geometry = name;
        cell.mix = mix;
        study.complete = !cancel_requested() && study_cell(timer, selector, table, options.rounds, cell);
        if (!study.complete) return study;
        study.cells.push_back(std::move(cell));
      }
    }
  }
  return study;
}

Json regret_json(const std::vector<SelectionCell>& cells, double SelectionCell::*field) {
  double sum = 0, most = 0;
  const SelectionCell* worst = nullptr;
  for (const SelectionCell& cell : cells) {
    sum += cell.*field;
    if (worst == nullptr || cell.*field > most) {
      most = cell.*field;
      worst = &cell;
    }
  }
  return {
      {"mean", cells.empty() ? 0 : sum / static_cast<double>(cells.size())},
      {"max", most},
      {"worst", worst == nullptr ? "" : fmt::format("{}, {}, {} tokens", worst->geometry, worst->mix, worst->tokens)}};
}

// Per geometry and number of tokens: the candidate that loses least, summed over the mixes; the one of the rules if it
// loses at most one per cent more, which is less than a run can tell.
Json recommendations(const SelectionOptions& options, const std::vector<SelectionCell>& cells) {
  Json all = Json::array();
  for (const std::string& geometry : options.geometries) {
    for (const int tokens : options.batch) {
      std::map<std::string, std::pair<double, int>> loss;  // candidate -> sum of time / oracle, mixes it was timed in
      int mixes = 0;
      const std::string* by_rule = nullptr;
      for (const SelectionCell& cell : cells) {
        if (cell.geometry != geometry || cell.tokens != tokens) continue;
        ++mixes;
        by_rule = &cell.heuristic;
        for (const SelectionCell::Measured& kernel : cell.measured) {
          auto& [sum, count] = loss[kernel.kernel];
          sum += kernel.median_ms / cell.oracle_ms;
          ++count;
        }
      }
      const std::string* best = nullptr;
      double least = 0;
      for (const auto& [name, entry] : loss) {
        if (entry.second == mixes && (best == nullptr || entry.first < least)) {
          best = &name;
          least = entry.first;
        }
      }
      if (best == nullptr) continue;
      const auto rule = loss.find(*by_rule);
      if (rule->second.second == mixes && rule->second.first <= 1.01 * least) {
        best = &rule->first;
        least = rule->second.first;
      }
      all.push_back(
          {{"geometry", geometry}, {"tokens", tokens}, {"kernel", *best}, {"mean_regret", least / mixes - 1}});
    }
  }
  return all;
}

// Four significant digits are far beyond the noise.
double rounded(double value) {
  const double scale = std::pow(10, 3 - std::floor(std::log10(value)));
  return std::round(value * scale) / scale;
}

Json measured_json(const SelectionCell& cell) {
  Json all = Json::array();
  for (const SelectionCell::Measured& kernel : cell.measured) {
    Json samples = Json::array();
    for (const double sample : kernel.samples_ms) samples.push_back(rounded(sample));
    all.push_back(
        {{"kernel", kernel.kernel}, {"median_ms", rounded(kernel.median_ms)}, {"samples_ms", std::move(samples)}});
  }
  return all;
}

Json document_of(const SelectionOptions& options, const select::SelectorOptions& selector, const Study& study) {
  Json results = Json::array();
  for (const SelectionCell& cell : study.cells) {
    results.push_back({{"geometry", cell.geometry},
                       {"mix", cell.mix},
                       {"tokens", cell.tokens},
                       {"oracle", cell.oracle},
                       {"oracle_ms", cell.oracle_ms},
                       {"heuristic", cell.heuristic},
                       {"heuristic_regret", cell.heuristic_regret},
                       {"tuned", cell.tuned},
                       {"tuned_regret", cell.tuned_regret},
                       {"online_regret", cell.online_regret},
                       {"online_steady", cell.online_steady},
                       {"measured", measured_json(cell)}});
  }
  Json document = result_header("fairway-selection-1", "selection", command_line());
  document.update({{"options",
                    {{"threads", selector.threads},
                     {"rounds", options.rounds},
                     {"pool_mib", options.pool_mib},
                     {"tune_seconds", options.tune_seconds},
                     {"tune_mix", options.tune_mix},
                     {"online_calls", kOnlineCalls},
                     {"backend", options.kernels.backend},
                     {"activations", options.kernels.activations}}},
                   {"stop", study.complete ? "complete" : "cancelled"},
                   {"regret",
                    {{"tuned", regret_json(study.cells, &SelectionCell::tuned_regret)},
                     {"heuristic", regret_json(study.cells, &SelectionCell::heuristic_regret)},
                     {"online", regret_json(study.cells, &SelectionCell::online_regret)},
                     {"online_steady", regret_json(study.cells, &SelectionCell::online_steady)}}},
                   {"decision_ns", study.decision},
                   {"tuning", study.tuning},
                   {"recommendations", recommendations(options, study.cells)},
                   {"results", results}});
  return document;
}

std::string text_of(const SelectionOptions& options, const Json& document) {
  std::string text = fmt::format("{:<10} {:<15} {:>6} {:>9} {:>10} {:>6} {:>7}  {}\n", "geometry", "mix", "tokens",
                                 "best ms", "heuristic", "tuned", "online", "best kernel");
  for (const Json& cell : document["results"]) {
    const auto percent = [&](const char* key) { return 100 * cell[key].get<double>(); };
    text += fmt::format("{:<10} {:<15} {:>6} {:>9.3f} {:>9.1f}% {:>5.1f}% {:>6.1f}%  {}\n",
                        cell["geometry"].get<std::string>(), cell["mix"].get<std::string>(), cell["tokens"].get<int>(),
                        cell["oracle_ms"].get<double>(), percent("heuristic_regret"), percent("tuned_regret"),
                        percent("online_regret"), cell["oracle"].get<std::string>());
  }
  text += "\nregret (fraction of the best kernel's time), mean and worst:\n";
  for (const char* kind : {"heuristic", "tuned", "online", "online_steady"}) {
    const Json& regret = document["regret"][kind];
    text += fmt::format("  {:<14} {:6.2f} % {:6.2f} %  ({})\n", kind, 100 * regret["mean"].get<double>(),
                        100 * regret["max"].get<double>(), regret["worst"].get<std::string>());
  }
  const Json& cost = document["decision_ns"];
  if (!cost.empty()) {
    text += fmt::format("a decision takes {:.0f} ns (median), {:.0f} ns (99 %)\n", cost["p50"].get<double>(),
                        cost["p99"].get<double>());
  }
  if (options.output.empty()) text += "--output FILE keeps all samples and the recommendations\n";
  return text;
}

// The options that both share.
int on_device(SelectionOptions options, const CLI::App& command, bool json) {
  for (const char* other :
       {"--geometry", "--mix", "--threads", "--pool-mib", "--tune-mix", "--backend", "--activations", "--kernel"}) {
    if (command.count(other) > 0) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("{} is for the CPU; with --device give --config FILE and --bits", other));
    }
  }
  DeviceSelectionOptions& device = options.on_device;
  device.rows = options.batch;
  device.output = options.output;
  if (command.count("--rounds") > 0) device.rounds = options.rounds;
  if (command.count("--tune-seconds") > 0) device.seconds = options.tune_seconds;
  return bench_device_selection(std::move(device), json);
}

int bench_selection(SelectionOptions options, bool json) {
  if (!options.on_device.configs.empty()) {
    throw Error(ErrorKind::kUsage, "--config is for --device cuda; see --geometry");
  }
  if (options.batch.empty()) options.batch = kTokens;
  if (options.threads == 0) options.threads = backend::cpu_info().cores;
  if (options.geometries.empty()) {
    for (const auto& known : select::known_geometries()) options.geometries.emplace_back(known.name);
  }
  if (options.mixes.empty()) {
    for (const auto& known : select::known_mixes()) options.mixes.push_back(known.name);
  }
  for (const std::string& name : options.geometries) select::geometry(name);
  for (const std::string& name : options.mixes) mix_named(name);
  mix_named(options.tune_mix);
  select::SelectorOptions selector;
  selector.policy = make_policy(options.kernels);
  selector.threads = options.threads;
  const Study study = run_study(options, selector);
  const Json document = document_of(options, selector, study);
  if (!options.output.empty()) write_text_file(options.output, json_text(document), "--output");
  if (json) {
    print_json(document);
  } else {
    print_text(text_of(options, document));
  }
  return study.complete ? kExitOk : kExitInterrupted;
}

}  // namespace

void add_bench_selection(CLI::App& bench_command, Invocation& call) {
  const auto options = std::make_shared<SelectionOptions>();
  CLI::App* command =
      add_command(bench_command, call, "selection", "How far rules, tuning and learning are from the best kernel",
                  "fairway bench selection --geometry glm47 --mix \"uniform 3\" --batch 1,16,256");
  command->add_option("--geometry", options->geometries, "demo, glm47, qwen3-30b (default: all)")
      ->delimiter(',')
      ->type_name("LIST");
  command
      ->add_option("--mix", options->mixes,
                   "Bit mix such as \"uniform 3\" or \"(6,2,3)\"; may be given several times (default: all ten)")
      ->type_name("NAME");
  command->add_option("--batch", options->batch, "Tokens per call (default: 17 sizes from 1 to 512)")
      ->delimiter(',')
      ->check(number_in(1, 65536))
      ->type_name("LIST");
  add_threads_option(*command, options->threads);
  command->add_option("--rounds", options->rounds, "Samples of every candidate that may win")
      ->check(number_in(4, 1000))
      ->capture_default_str();
  command->add_option("--pool-mib", options->pool_mib, "Weights that are cycled through; more than the caches: cold")
      ->check(number_in(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--tune-seconds", options->tune_seconds, "Budget of the tuner per geometry; 0: no tuning")
      ->check(number_in(0, 86400))
      ->capture_default_str();
  command->add_option("--tune-mix", options->tune_mix, "Bit mix that is tuned on")->capture_default_str();
  command->add_option("--output,-o", options->output, "Write the result file here")->type_name("FILE");
  add_kernel_options(*command, options->kernels);
  DeviceSelectionOptions& device = options->on_device;
  command
      ->add_option("--device", device.device.device, "cuda or cuda:N: the choice among the paths of the CUDA kernels")
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      ->add_option("--config", device.configs, "With --device: config.json of a geometry; may be given several times")
      ->type_name("FILE");
  command
      ->add_option("--bits", device.bits,
                   "With --device: widths of experts, as `bench device` takes them; may be given several times "
                   "(default: 4 and \"6,2,3;6,3,4;2,2,2;2,2,2\"). Attention has their mean")
      ->type_name("TUPLES");
  command->add_option("--codebook", device.codebook, "With --device")
      ->check(CLI::IsMember({"mul1", "mcg", "3inst"}))
      ->capture_default_str();
  command->callback([options, command, &call] {
    call.action = [options, command, &call] {
      if (options->on_device.device.device != "cpu") return on_device(*options, *command, call.json);
      return bench_selection(*options, call.json);
    };
  });
}

}  // namespace fairway::cli
