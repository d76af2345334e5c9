// fairway optimize: compares tiles of a kernel, all promising kernels, or the structures of the kernels.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "backend/cpu/features.h"
#include "backend/cpu/thread_pool.h"
#include "cli/cli.h"
#include "cli/kernel_facts.h"
#include "cli/signals.h"
#include "cli/tune_layers.h"
#include "cli/tune_task.h"
#include "select/allow.h"
#include "select/autotuner.h"

namespace fairway::cli {
namespace {

using select::KernelConfig;
using select::MoeCandidate;

struct OptimizeOptions {
  std::string kernel, profile, output;
  bool all = false, structural = false;
  TuneTask task;
};

// One batch size of one kind of layer.
struct Comparison {
  std::string layers;  // name of the task
  std::string bits;
  int tokens = 0;
  const char* weights_from = "";
  std::string fallback;  // the default
  std::vector<select::BenchmarkResult> results;
};

bool is_named(const kernels::KernelRow& row, const std::string& name) {
  const kernels::KernelAlias* alias = kernels::find_alias(name);
  return select::is_named(row, alias == nullptr ? std::string_view(name) : alias->target_family);
}

// The activations that all rows of that name share, so that the default they are compared with has them too.
std::string activations_of(const std::string& name) {
  std::string activations;
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    if (!is_named(row.info, name) || !kernels::can_run(row.info, backend::cpu_info().features)) continue;
    const std::string own = kernels::activations_name(row.info.activations);
    activations = activations.empty() || activations == own ? own : "auto";
  }
  return activations.empty() ? "auto" : activations;
}

// Rows of that name that run here and read the layer.
std::vector<const kernels::MoeSwigluRow*> rows_named(const std::string& name, const select::MoeLayerTraits& traits) {
  std::vector<const kernels::MoeSwigluRow*> rows;
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    if (is_named(row.info, name) && row.info.weights == kernels::WeightKind::kTrellis &&
        kernels::can_run(row.info, backend::cpu_info().features) && (traits.codebooks & ~row.info.codebooks) == 0) {
      rows.push_back(&row);
    }
  }
  return rows;
}

std::vector<KernelConfig> tiles_of(const kernels::MoeSwigluRow& row) {
  std::vector<KernelConfig> configs{select::config_of({&row, row.info.tile})};
  if (row.info.tile == kernels::Tile{}) return configs;
  for (const int m : {1, 4, 16, 32, 64, 256}) {
    for (const kernels::Tile tile : {kernels::Tile{m, 64, 1}, kernels::Tile{m, 128, 1}, kernels::Tile{m, 64, 2}}) {
      if (tile != row.info.tile) configs.push_back(select::config_of({&row, tile}));
    }
  }
  return configs;
}

// Each structure with one and with two workers per tile.
std::vector<KernelConfig> structures(const select::Policy& policy, const select::MoeLayerTraits& traits, int tokens) {
  std::vector<KernelConfig> configs;
  const kernels::Backend backend = select::default_candidate(policy, traits, tokens).row->info.backend;
  for (const MoeCandidate& candidate : select::legal_candidates(policy, traits, tokens)) {
    if (candidate.row->info.backend != backend) continue;
    configs.push_back(select::config_of(candidate));
    const kernels::Tile two{candidate.tile.m, 64, 2};
    if (candidate.tile != kernels::Tile{}) configs.push_back(select::config_of({candidate.row, two}));
  }
  return configs;
}

std::vector<KernelConfig> configs_for(const OptimizeOptions& options, const select::Policy& policy,
                                      const select::MoeLayerTraits& traits, int tokens) {
  if (options.structural) return structures(policy, traits, tokens);
  if (options.all) return {};  // the promising ones
  std::vector<KernelConfig> configs;
  for (const kernels::MoeSwigluRow* row : rows_named(options.kernel, traits)) {
    for (KernelConfig& config : tiles_of(*row)) configs.push_back(std::move(config));
  }
  if (configs.empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--kernel {}: no row of this id, family or alias runs here and reads {} of these layers",
                            options.kernel, fmt::join(codebook_names(traits.codebooks), "+")));
  }
  return configs;
}

// Layers of a task by kind, in the order of their first layers.
std::vector<std::vector<select::TuneLayer>> kinds_of(std::span<const select::TuneLayer> layers) {
  std::vector<std::vector<select::TuneLayer>> kinds;
  for (const select::TuneLayer& layer : layers) {
    const auto same = [&](const auto& kind) { return kind.front().traits.key == layer.traits.key; };
    const auto kind = std::find_if(kinds.begin(), kinds.end(), same);
    if (kind == kinds.end()) {
      kinds.push_back({layer});
    } else {
      kind->push_back(layer);
    }
  }
  return kinds;
}

// Appends to `comparisons` and `outcome` until done or cancelled.
void compare_task(const OptimizeOptions& options, const TuneTask& task, std::vector<Comparison>& comparisons,
                  TuneOutcome& outcome) {
  backend::ThreadPool pool(task.threads);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  const TuneLayers layers(task.layers, task.text.empty() ? "" : read_file(task.text, "--text"), task.recorded_tokens,
                          context);
  Progress progress("optimize " + task.name);
  select::TuneOptions tune;
  tune.warmup = task.warmup;
  tune.iterations = task.iterations;
  tune.policy = select::make_policy("", options.kernel.empty() ? "auto" : activations_of(options.kernel), "");
  tune.cancel = &cancel_requested();
  const auto kinds = kinds_of(layers.layers());
  const double total = static_cast<double>(kinds.size() * task.batch_sizes.size());
  double done = 0;
  tune.progress = [&](int step, int steps, const std::string& what) {
    progress.update((done + static_cast<double>(step) / steps) / total, what);
  };
  select::MixedBPWAutoTuner tuner;
  for (const auto& kind : kinds) {
    const select::MoeLayerTraits& traits = kind.front().traits;
    for (const int tokens : task.batch_sizes) {
      if (cancel_requested()) break;
      const auto configs = configs_for(options, tune.policy, traits, tokens);
      Comparison comparison{task.name,
                            traits.mix_text(),
                            tokens,
                            layers.weights_from(traits, tokens),
                            select::default_candidate(tune.policy, traits, tokens).name(),
                            tuner.benchmark_layers(kind, tokens, configs, tune, context)};
      if (!comparison.results.empty()) comparisons.push_back(std::move(comparison));
      ++done;
    }
  }
  outcome = {task, layers.about(), pool.size(), 0, 0, !cancel_requested(), tuner.table().entries, {}};
}

const char* structure_name(const KernelConfig& config) {
  const std::string_view kernel = config.kernel_name;
  if (kernel.find("decode") != kernel.npos) return "one row decodes";
  if (kernel.find("prefill4") != kernel.npos) return "few rows from registers";
  if (kernel.find("grouped") != kernel.npos) return "grouped, each by its size";
  return "panel";
}

std::string comparison_text(const Comparison& comparison, bool structural) {
  std::size_t width = 6;
  double fallback_ms = 0;
  for (const select::BenchmarkResult& result : comparison.results) {
    const std::string name = select::candidate_of(result.config).name();
    width = std::max(width, name.size());
    if (name == comparison.fallback) fallback_ms = result.latency_ms;
  }
  std::string text = fmt::format("{}, {} tokens, {} (weights from {})\n", comparison.layers, comparison.tokens,
                                 comparison.bits, comparison.weights_from);
  text += fmt::format("  {:<{}} {:>9} {:>11} {:>7} {:>7}{}\n", "kernel", width, "ms", "to default", "GB/s", "samples",
                      structural ? "  structure" : "");
  for (const select::BenchmarkResult& result : comparison.results) {
    const std::string name = select::candidate_of(result.config).name();
    const std::string change = name == comparison.fallback ? "default"
                               : fallback_ms > 0 ? fmt::format("{:+.1f}%", 100 * (result.latency_ms / fallback_ms - 1))
                                                 : "-";
    text += fmt::format("  {:<{}} {:>9.3f} {:>11} {:>7.2f} {:>7}", name, width, result.latency_ms, change,
                        result.throughput_gbps, result.samples_ms.size());
    text += structural ? fmt::format("  {}, {} worker{}\n", structure_name(result.config), result.config.simdgroups,
                                     result.config.simdgroups == 1 ? "" : "s")
                       : "\n";
  }
  return text;
}

Json comparison_json(const Comparison& comparison) {
  Json results = Json::array();
  for (const select::BenchmarkResult& result : comparison.results) {
    results.push_back({{"kernel", select::candidate_of(result.config).name()},
                       {"structure", structure_name(result.config)},
                       {"tile_m", result.config.tile_size_m},
                       {"tile_n", result.config.tile_size_n},
                       {"workers", result.config.simdgroups},
                       {"ms", result.latency_ms},
                       {"gb_per_second", result.throughput_gbps},
                       {"samples_ms", result.samples_ms}});
  }
  return {{"layers", comparison.layers},    {"tokens", comparison.tokens},
          {"bits", comparison.bits},        {"weights_from", comparison.weights_from},
          {"default", comparison.fallback}, {"results", std::move(results)}};
}

std::vector<TuneTask> tasks_of(const OptimizeOptions& options) {
  if ((!options.kernel.empty()) + options.all + options.structural != 1) {
    throw Error(ErrorKind::kUsage, "exactly one of --kernel NAME, --all and --structural is needed");
  }
  std::vector<TuneTask> tasks;
  if (!options.profile.empty()) {
    if (!options.task.layers.model.empty() || !options.task.layers.geometry.empty()) {
      throw Error(ErrorKind::kUsage, "--profile has layers of its own; leave out --model and --geometry");
    }
    tasks = profile_tasks(options.profile);
    for (TuneTask& task : tasks) {
      if (!options.task.batch_sizes.empty()) task.batch_sizes = options.task.batch_sizes;
      task.threads = options.task.threads;
      task.layers.codebook = options.task.layers.codebook;
      task.iterations = options.task.iterations;
      task.warmup = options.task.warmup;
    }
  } else {
    check_layer_options(options.task.layers);
    tasks = {options.task};
    tasks[0].name = tasks[0].layers.model.empty() ? tasks[0].layers.geometry : tasks[0].layers.model;
  }
  for (TuneTask& task : tasks) fill_defaults(task, /*quick=*/true);
  return tasks;
}

int optimize(const OptimizeOptions& options, bool json) {
  const std::vector<TuneTask> tasks = tasks_of(options);
  if (!options.kernel.empty()) make_policy({"", "auto", options.kernel});  // refuses unknown names before the layers
  std::vector<Comparison> comparisons;
  std::vector<TuneOutcome> outcomes;
  for (const TuneTask& task : tasks) {
    const std::size_t before = comparisons.size();
    compare_task(options, task, comparisons, outcomes.emplace_back());
    if (!json) {
      print_text(fmt::format("{}\n", outcomes.back().about));
      for (std::size_t i = before; i < comparisons.size(); ++i) {
        print_text(comparison_text(comparisons[i], options.structural));
      }
    }
    if (cancel_requested()) break;
  }
  const bool stopped = cancel_requested();
  if (comparisons.empty()) throw_if_cancelled("comparing kernels, before any was timed");
  if (!options.output.empty()) {
    const std::size_t in_file = write_entries(options.output, outcomes);
    if (!json) print_text(fmt::format("{}: {} entries in the file\n", options.output, in_file));
  }
  if (json) {
    Json all = Json::array();
    for (const Comparison& comparison : comparisons) all.push_back(comparison_json(comparison));
    print_json({{"threads", outcomes.front().threads},
                {"layers", outcomes.front().about},
                {"output", options.output},
                {"stop", stopped ? "cancelled" : "complete"},
                {"comparisons", std::move(all)}});
  }
  if (stopped) fmt::print(stderr, "fairway: interrupted after {} comparisons\n", comparisons.size());
  return stopped ? kExitInterrupted : kExitOk;
}

}  // namespace

void add_optimize_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<OptimizeOptions>();
  TuneTask& task = options->task;
  CLI::App* command =
      add_command(app, call, "optimize", "Compare the tiles of a kernel, all promising kernels, or kernel structures",
                  "fairway optimize --structural --geometry demo --batch-sizes 1,16");
  command->add_option("--kernel", options->kernel, "The tiles of this row, family or alias (see `fairway kernels`)")
      ->type_name("NAME");
  command->add_flag("--all", options->all, "All kernels and tiles that the cost model finds promising");
  command->add_flag("--structural", options->structural,
                    "How rows share a decode (one, few, panel, grouped), with one and two workers per tile");
  add_layer_options(*command, task.layers);
  command->add_option("--text", task.text, "With --model: text to record hidden states from (default: a short one)")
      ->type_name("FILE");
  command->add_option("--profile", options->profile, "Layers and batch sizes of a profile: mixed_bpw_fairway_glm47")
      ->type_name("NAME");
  command
      ->add_option("--batch-sizes", task.batch_sizes,
                   "Tokens of a call, a list (default 1,4,16,64,256, or the profile's)")
      ->delimiter(',')
      ->check(number_in(1, 65536))
      ->type_name("LIST");
  command->add_option("--iterations", task.iterations, "Samples per kernel (default 8)")
      ->check(number_in(1, 1e6))
      ->type_name("N");
  command->add_option("--warmup", task.warmup, "Samples of the default that are thrown away first")
      ->check(number_in(0, 1e6))
      ->capture_default_str();
  add_threads_option(*command, task.threads);
  command->add_option("--output,-o", options->output, "Add the results to this table (default: nothing is written)")
      ->type_name("FILE");
  command->callback([options, &call] { call.action = [options, &call] { return optimize(*options, call.json); }; });
}

}  // namespace fairway::cli
