// Tuning: contests over layer kinds and batch sizes, and the table that comes of them.
#include "select/autotuner.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <mutex>
#include <set>

#include "fairway/error.h"
#include "select/confidence.h"
#include "select/contest.h"
#include "select/kernel_names.h"
#include "select/kernel_selector.h"
#include "select/thresholds.h"

namespace fairway::select {
namespace {

constexpr int kLeastAdaptSamples = 5;
// How much slower than the best the fastest sample of a candidate is when it is given up, after so many rounds.
constexpr std::array kHopeless = {0.6, 0.25, 0.1};
constexpr int kFinalRounds = 5, kFinalists = 4;  // after so many rounds, only so many go on beside the default
constexpr double kConfidence = 0.95;

std::vector<int> distinct(std::vector<int> widths) {
  std::sort(widths.begin(), widths.end());
  widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
  return widths;
}

double ratio(int a, int b) {
  return a > b ? static_cast<double>(a) / b : static_cast<double>(b) / a;
}

// What a width maps to, or the nearest narrower width; 0 if the mapping has none.
int mapped(const std::map<int, int>& mapping, int width) {
  auto it = mapping.upper_bound(width);
  return it == mapping.begin() ? (mapping.empty() ? 0 : it->second) : std::prev(it)->second;
}

struct Call {
  int batch, hidden;
  std::vector<int> widths;
  friend auto operator<=>(const Call&, const Call&) = default;
};

}  // namespace

struct MixedBPWAutoTuner::State {
  std::string device_name;
  std::filesystem::path config_path;
  TunedTable table;
  mutable std::mutex mutex;  // of the latencies
  std::map<Call, std::map<std::string, LatencyHistory>> latencies;
  int recorded = 0;

  const DeviceProfile& device() const { return device_profile(table.device.device_family); }

  // The row of a family (or alias, or id) that runs here, with its tile; on devices without rows, the name with the
  // mappings of the table.
  KernelConfig config_for(std::string_view name, int tile_n, const std::vector<int>& widths) const {
    const kernels::KernelAlias* alias = kernels::find_alias(name);
    const std::string_view family = alias == nullptr ? name : alias->target_family;
    Policy policy = make_policy("", "", "");
    const kernels::MoeSwigluRow* best = nullptr;
    for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
      const bool named = family == row.info.family || family == row.info.id;
      if (named && kernels::can_run(row.info, policy.features) &&
          (best == nullptr || row.info.backend > best->info.backend)) {
        best = &row;
      }
    }
    if (best != nullptr && device().family == this_device().family) return config_of({best, best->info.tile});
    const int widest = widths.empty() ? 4 : widths.back();
    const int tile = mapped(table.tile_size_mapping, widest), groups = mapped(table.simdgroup_mapping, widest);
    return {std::string(name),          tile == 0 ? tile_n : tile,
            tile == 0 ? tile_n : tile,  groups == 0 ? 1 : groups,
            name.ends_with("_fp32acc"), std::string(family).find("decode") != std::string::npos ? "decode" : "base"};
  }
};

MixedBPWAutoTuner::MixedBPWAutoTuner(std::string device_name, std::filesystem::path config_path)
    : state_(std::make_unique<State>()) {
  state_->device_name = device_name.empty() ? this_device_name() : std::move(device_name);
  state_->config_path = std::move(config_path);
  std::string why;
  if (auto table = TunedTable::load_if_usable(state_->config_path, why)) state_->table = std::move(*table);
  // Whatever device the table is meant for, what is measured is measured on this machine.
  state_->table.device = this_device_stamp();
  if (state_->device_name != this_device_name()) {
    state_->table.device.device_name = state_->device_name;
    state_->table.device.device_family = device_profile(state_->device_name).family;
  }
}

MixedBPWAutoTuner::~MixedBPWAutoTuner() = default;
MixedBPWAutoTuner::MixedBPWAutoTuner(MixedBPWAutoTuner&&) noexcept = default;
MixedBPWAutoTuner& MixedBPWAutoTuner::operator=(MixedBPWAutoTuner&&) noexcept = default;

const std::string& MixedBPWAutoTuner::device_name() const {
  return state_->device_name;
}
const std::string& MixedBPWAutoTuner::device_family() const {
  return state_->table.device.device_family;
}
const TunedTable& MixedBPWAutoTuner::table() const {
  return state_->table;
}

namespace {

// One batch size of one kind of layer.
struct TuneTask {
  std::span<const TuneLayer> layers;
  int tokens;
  CallTimer timer;
  Contest contest;

  TuneTask(std::span<const TuneLayer> l, int t, std::vector<MoeCandidate> candidates, kernels::KernelContext& context)
      : layers(l), tokens(t), timer(l, t, context), contest(std::move(candidates)) {}

  std::string what() const { return fmt::format("{} tokens, {}", tokens, layers.front().traits.mix_text()); }
};

std::vector<MoeCandidate> candidates_for(const std::vector<KernelConfig>& configs, const TuneOptions& options,
                                         const MoeLayerTraits& traits, int tokens, int threads) {
  if (configs.empty()) return promising_candidates(options.policy, traits, tokens, threads, options.slack);
  std::vector<MoeCandidate> candidates{default_candidate(options.policy, traits, tokens)};
  for (const KernelConfig& config : configs) {
    const MoeCandidate candidate = candidate_of(config);
    if (!kernels::can_run(candidate.row->info, options.policy.features)) {
      throw Error(ErrorKind::kUsage, fmt::format("kernel '{}' cannot run on this processor", config.kernel_name));
    }
    if ((traits.codebooks & ~candidate.row->info.codebooks) != 0) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("kernel '{}' does not read the codebook of the layer", config.kernel_name));
    }
    if (std::find(candidates.begin(), candidates.end(), candidate) == candidates.end()) candidates.push_back(candidate);
  }
  return candidates;
}

TunedEntry entry_of(const TuneTask& task, int threads) {
  const Contest& contest = task.contest;
  TunedEntry entry;
  entry.tokens = task.tokens;
  entry.threads = threads;
  entry.layer = task.layers.front().traits;
  const MoeCandidate& first = contest.candidates().front();
  entry.activations = kernels::activations_name(first.row->info.activations);
  entry.best = config_of(contest.candidates()[static_cast<std::size_t>(contest.winner())]);
  entry.fallback = config_of(first);
  for (int i = 0; i < static_cast<int>(contest.candidates().size()); ++i) {
    if (contest.samples(i).empty()) continue;
    entry.measured.push_back(
        {config_of(contest.candidates()[static_cast<std::size_t>(i)]), contest.median(i), contest.samples(i)});
  }
  std::sort(entry.measured.begin(), entry.measured.end(),
            [](const MeasuredKernel& a, const MeasuredKernel& b) { return a.median_ms < b.median_ms; });
  return entry;
}

bool is_cancelled(const TuneOptions& options) {
  return options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed);
}

std::string today() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

std::vector<BenchmarkResult> MixedBPWAutoTuner::benchmark_layers(std::span<const TuneLayer> layers, int batch_size,
                                                                 const std::vector<KernelConfig>& configs,
                                                                 const TuneOptions& options,
                                                                 kernels::KernelContext& context) {
  if (layers.empty()) throw Error(ErrorKind::kUsage, "no layers to time");
  const int threads = context.pool.size();
  TuneTask task(layers, batch_size, candidates_for(configs, options, layers.front().traits, batch_size, threads),
                context);
  std::int64_t bytes = 0;
  const auto stop = [&] { return is_cancelled(options); };
  task.contest.warm_up(task.timer, options.warmup, stop);
  for (int i = 0; i < options.iterations; ++i) {
    if (!task.contest.round(task.timer, stop)) break;
    bytes = task.timer.bytes_touched();
    if (options.progress) options.progress(i + 1, options.iterations, task.what());
  }
  std::vector<BenchmarkResult> results;
  if (task.contest.rounds() == 0) return results;
  TunedEntry entry = entry_of(task, threads);
  double layer_bytes = 0;
  for (const auto* list : {layers.front().experts, layers.front().always_on}) {
    for (const kernels::ExpertWeights& expert : *list) layer_bytes += static_cast<double>(coded_bytes(expert));
  }
  for (const MeasuredKernel& kernel : entry.measured) {
    results.push_back({kernel.config, kernel.median_ms, static_cast<double>(bytes) / kernel.median_ms / 1e6,
                       layer_bytes / 1e6, unix_seconds(), kernel.samples_ms});
  }
  state_->table.benchmark_count += static_cast<int>(results.size());
  state_->table.date = today();
  state_->table.put(std::move(entry));
  return results;
}

MixedBPWAutoTuner::TuneReport MixedBPWAutoTuner::tune(std::span<const TuneLayer> layers,
                                                      const std::vector<int>& batch_sizes, const TuneOptions& options,
                                                      kernels::KernelContext& context) {
  const auto clock = options.clock ? options.clock : [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const double begin = clock();
  const auto seconds = [&] { return clock() - begin; };
  std::map<std::uint64_t, std::vector<TuneLayer>> kinds;
  for (const TuneLayer& layer : layers) kinds[layer.traits.key].push_back(layer);
  std::vector<std::unique_ptr<TuneTask>> tasks;
  for (const auto& [key, kind] : kinds) {
    for (const int tokens : batch_sizes) {
      tasks.push_back(std::make_unique<TuneTask>(
          kind, tokens,
          promising_candidates(options.policy, kind.front().traits, tokens, context.pool.size(), options.slack),
          context));
    }
  }
  TuneReport report;
  // Rounds over all tasks, so that time that runs out or a machine that changes its speed hits all alike. Once the time
  // is up, no sample is begun, except that the first task always gets one round.
  const int count = static_cast<int>(tasks.size()), total = options.iterations * count;
  const auto out_of_time = [&] { return options.budget_seconds > 0 && seconds() > options.budget_seconds; };
  bool stopped = false;
  for (int r = 0; r < options.iterations && !stopped; ++r) {
    for (int i = 0; i < count && !stopped; ++i) {
      TuneTask& task = *tasks[static_cast<std::size_t>(i)];
      const auto stop = [&] { return is_cancelled(options) || (r + i > 0 && out_of_time()); };
      stopped =
          (r == 0 && !task.contest.warm_up(task.timer, options.warmup, stop)) || !task.contest.round(task.timer, stop);
      task.contest.drop_hopeless(kHopeless[std::min<std::size_t>(static_cast<std::size_t>(r), kHopeless.size() - 1)]);
      if (r + 1 >= kFinalRounds) task.contest.keep_best(kFinalists);
      if (options.progress && !stopped) {
        const int done = r * count + i + 1;
        const double spent = options.budget_seconds > 0 ? seconds() / options.budget_seconds : 0;
        options.progress(std::max(done, std::min(total, static_cast<int>(spent * total))), total, task.what());
      }
    }
  }
  if (options.progress) options.progress(total, total, "done");
  report.complete = !is_cancelled(options) && std::all_of(tasks.begin(), tasks.end(),
                                                          [](const auto& task) { return task->contest.rounds() > 0; });
  std::vector<std::pair<std::uint64_t, int>> done;
  for (const auto& task : tasks) {
    if (task->contest.rounds() == 0) continue;
    TunedEntry entry = entry_of(*task, context.pool.size());
    for (const MeasuredKernel& kernel : entry.measured)
      report.calls += static_cast<std::int64_t>(kernel.samples_ms.size());
    state_->table.benchmark_count += static_cast<int>(entry.measured.size());
    done.emplace_back(entry.layer.key, entry.tokens);
    state_->table.put(std::move(entry));
  }
  for (const TunedEntry& entry : state_->table.entries) {
    const std::pair<std::uint64_t, int> call{entry.layer.key, entry.tokens};
    if (entry.threads == context.pool.size() && std::find(done.begin(), done.end(), call) != done.end()) {
      report.entries.push_back(&entry);
    }
  }
  state_->table.date = today();
  report.seconds = seconds();
  return report;
}

std::optional<KernelConfig> MixedBPWAutoTuner::select_kernel(int batch_size, int hidden_dim,
                                                             std::vector<int> bit_widths, bool use_decode,
                                                             bool fallback_to_default) const {
  const std::vector<int> widths = distinct(std::move(bit_widths));
  const BatchRule& rule = rule_for_batch(state_->device(), batch_size);  // checks the batch size
  // Exact, then the nearest batch, then the nearest hidden size with the nearest batch.
  const LookupEntry* best = nullptr;
  const std::vector<LookupEntry> all = state_->table.lookup_entries();
  double least = 0;
  for (const LookupEntry& entry : all) {
    if (entry.widths != widths) continue;
    const double distance =
        std::log2(ratio(entry.tokens, batch_size)) + 64 * std::log2(ratio(entry.hidden, hidden_dim));
    if (best == nullptr || distance < least) {
      best = &entry;
      least = distance;
    }
  }
  if (best != nullptr) return best->config;
  if (!fallback_to_default) return std::nullopt;
  const std::string_view kernel =
      use_decode && batch_size == 1 ? std::string_view("moe_trellis_swiglu_decode") : rule.kernel;
  return state_->config_for(kernel, rule.tile_n, widths);
}

void MixedBPWAutoTuner::record_latency(const std::string& kernel_name, int batch_size, double latency_ms,
                                       int hidden_dim, std::vector<int> bit_widths) {
  check_kernel_name(kernel_name);
  if (!std::isfinite(latency_ms) || latency_ms <= 0 || batch_size < 1) {
    throw Error(ErrorKind::kUsage,
                fmt::format("latency of {} ms for {} tokens, expected positive numbers", latency_ms, batch_size));
  }
  const std::lock_guard lock(state_->mutex);
  auto& kernels = state_->latencies[{batch_size, hidden_dim, distinct(std::move(bit_widths))}];
  kernels.try_emplace(kernel_name, state_->table.adaptation_history_len).first->second.add(latency_ms);
  ++state_->recorded;
}

std::optional<KernelConfig> MixedBPWAutoTuner::adapt_selection(int batch_size, int hidden_dim,
                                                               std::vector<int> bit_widths, int top_k) const {
  if (!state_->table.adaptation_enabled) return std::nullopt;
  const std::vector<int> widths = distinct(std::move(bit_widths));
  const std::lock_guard lock(state_->mutex);
  auto found = state_->latencies.find({batch_size, hidden_dim, widths});
  if (found == state_->latencies.end()) found = state_->latencies.find({batch_size, 0, {}});
  if (found == state_->latencies.end() || top_k < 1) return std::nullopt;
  std::vector<const std::pair<const std::string, LatencyHistory>*> timed;
  for (const auto& kernel : found->second) timed.push_back(&kernel);
  std::stable_sort(timed.begin(), timed.end(),
                   [](const auto* a, const auto* b) { return a->second.size() > b->second.size(); });
  if (timed.size() > static_cast<std::size_t>(top_k)) timed.resize(static_cast<std::size_t>(top_k));
  const auto mean = [](const auto* kernel) { return kernel->second.mean(0, kernel->second.size()); };
  const auto* fastest =
      *std::min_element(timed.begin(), timed.end(), [&](const auto* a, const auto* b) { return mean(a) < mean(b); });
  if (fastest->second.size() < kLeastAdaptSamples) return std::nullopt;
  const auto own = confidence_interval(fastest->second.samples(), kConfidence);
  for (const auto* other : timed) {
    if (other == fastest) continue;
    const auto interval = confidence_interval(other->second.samples(), kConfidence);
    if (!interval || !own->below(*interval)) return std::nullopt;
  }
  const BatchRule& rule = rule_for_batch(state_->device(), batch_size);
  return state_->config_for(fastest->first, rule.tile_n, widths);
}

void MixedBPWAutoTuner::clear_adaptation_history() {
  const std::lock_guard lock(state_->mutex);
  state_->latencies.clear();
  state_->recorded = 0;
}

MixedBPWAutoTuner::Statistics MixedBPWAutoTuner::statistics() const {
  Statistics statistics;
  for (const TunedEntry& entry : state_->table.entries) {
    ++statistics.entries;
    statistics.kernels_timed += static_cast<int>(entry.measured.size());
    ++statistics.chosen[candidate_of(entry.best).name()];
    double best = 0, fallback = 0;
    for (const MeasuredKernel& kernel : entry.measured) {
      if (kernel.config == entry.best) best = kernel.median_ms;
      if (kernel.config == entry.fallback) fallback = kernel.median_ms;
    }
    const double gain = fallback > 0 ? 1 - best / fallback : 0;
    statistics.mean_gain += gain;
    statistics.best_gain = std::max(statistics.best_gain, gain);
  }
  if (statistics.entries > 0) statistics.mean_gain /= statistics.entries;
  const std::lock_guard lock(state_->mutex);
  statistics.latencies_recorded = state_->recorded;
  return statistics;
}

std::string MixedBPWAutoTuner::export_config(const std::filesystem::path& path) const {
  const std::filesystem::path& target = path.empty() ? state_->config_path : path;
  if (!target.empty()) state_->table.save(target);
  return state_->table.to_json();
}

MixedBPWAutoTuner MixedBPWAutoTuner::load_config(const std::filesystem::path& path) {
  TunedTable table = TunedTable::load(path);
  MixedBPWAutoTuner tuner;
  tuner.state_->device_name = table.device.device_name;  // may be one that this version does not know
  tuner.state_->table = std::move(table);
  tuner.state_->config_path = path;
  return tuner;
}

}  // namespace fairway::select
