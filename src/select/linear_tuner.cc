// The measuring half of linear_tuner.h and its table.
#include "select/linear_tuner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "codec/packing.h"
#include "fairway/error.h"
#include "select/allow.h"
#include "select/verdict.h"

namespace fairway::select {
namespace {

using Json = nlohmann::ordered_json;
using kernels::KernelRow;
using kernels::LinearWeights;
using kernels::Tile;

constexpr double kLeastSampleMs = 1;  // shorter calls are repeated and their mean is the sample

constexpr double kNearestRatio = 2;  // between the tokens of a call and those of an entry for it

// Calls all candidates once per round, in turning order.
class Rounds {
 public:
  Rounds(const LinearWeights& linear, int m, const std::vector<LinearCandidate>& candidates,
         kernels::KernelContext& context)
      : linear_(linear), m_(m), candidates_(candidates), context_(context), samples_(candidates.size()) {
    x_.resize(static_cast<std::size_t>(m) * linear.in);
    y_.resize(static_cast<std::size_t>(m) * linear.out);
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    for (float& value : x_) value = normal(random);
  }

  // False if cancelled; the samples of a round that was not finished are dropped.
  bool run(int round, bool counts, const std::atomic<bool>* cancel) {
    std::vector<double> times(candidates_.size());
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (cancel != nullptr && cancel->load()) return false;
      const std::size_t turn = (i + static_cast<std::size_t>(round)) % candidates_.size();
      times[turn] = time_ms(candidates_[turn]);
    }
    for (std::size_t i = 0; counts && i < times.size(); ++i) samples_[i].push_back(times[i]);
    return true;
  }

  const std::vector<std::vector<double>>& samples() const { return samples_; }

 private:
  double time_ms(const LinearCandidate& candidate) {
    const auto start = std::chrono::steady_clock::now();
    double passed = 0;
    int calls = 0;
    do {
      run_linear(candidate, linear_, x_.data(), m_, y_.data(), context_);
      passed = 1e3 * std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      ++calls;
    } while (passed < kLeastSampleMs);
    return passed / calls;
  }

  const LinearWeights& linear_;
  const int m_;
  const std::vector<LinearCandidate>& candidates_;
  kernels::KernelContext& context_;
  std::vector<float> x_, y_;
  std::vector<std::vector<double>> samples_;
};

std::vector<LinearCandidate> wanted(const LinearWeights& linear, int m, const std::vector<KernelConfig>& configs,
                                    const Policy& policy) {
  std::vector<LinearCandidate> candidates = linear_candidates(policy, linear.trellis(), m);
  if (configs.empty()) return candidates;
  candidates.resize(1);
  for (const KernelConfig& config : configs) {
    const LinearCandidate candidate = linear_candidate_of(config);
    if (std::find(candidates.begin(), candidates.end(), candidate) == candidates.end()) candidates.push_back(candidate);
  }
  return candidates;
}

Json config_json(const KernelConfig& config) {
  return {{"kernel_name", config.kernel_name},   {"tile_size_m", config.tile_size_m},
          {"tile_size_n", config.tile_size_n},   {"simdgroups", config.simdgroups},
          {"use_fp32_acc", config.use_fp32_acc}, {"kernel_variant", config.kernel_variant}};
}

KernelConfig config_from(const Json& json) {
  KernelConfig config{json.at("kernel_name"), json.at("tile_size_m"),  json.at("tile_size_n"),
                      json.at("simdgroups"),  json.at("use_fp32_acc"), json.at("kernel_variant")};
  linear_candidate_of(config);  // refuses what does not exist
  return config;
}

TunedLinear entry_from(const Json& json) {
  TunedLinear entry;
  entry.call = {json.at("tokens"), json.at("threads"), json.at("in"),
                json.at("out"),    json.at("bits"),    json.at("codebook")};
  if (entry.call.tokens < 1 || entry.call.threads < 1) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("tokens {}, threads {}, expected 1 or more", entry.call.tokens, entry.call.threads));
  }
  entry.best = config_from(json.at("best"));
  entry.fallback = config_from(json.at("default"));
  for (const Json& one : json.at("measured")) {
    entry.measured.push_back({config_from(one), one.at("median_ms"), one.at("samples_ms")});
  }
  return entry;
}

}  // namespace

KernelConfig config_of(const LinearCandidate& candidate) {
  return {candidate.row->info.id,
          candidate.tile.m,
          candidate.tile.n,
          candidate.tile.workers,
          candidate.row->info.activations == kernels::Activations::kFp32,
          "base"};
}

LinearCandidate linear_candidate_of(const KernelConfig& config) {
  for (const kernels::TrellisLinearRow& row : kernels::trellis_linear_rows()) {
    if (config.kernel_name != row.info.id) continue;
    const Tile tile{config.tile_size_m, config.tile_size_n, config.simdgroups};
    if (tile == Tile{} || tile == row.info.tile) return {&row, row.info.tile};
    if (row.info.tile != Tile{} && kernels::is_legal_tile(tile)) return {&row, tile};
    throw Error(ErrorKind::kUsage,
                fmt::format("kernel '{}' takes no tile {}x{}/{}", config.kernel_name, tile.m, tile.n, tile.workers));
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("'{}' is no row of trellis_linear; `fairway kernels` lists them", config.kernel_name));
}

LinearCandidate default_linear(const Policy& policy, const kernels::TrellisMatrix& matrix, int m) {
  const auto bits = static_cast<std::uint8_t>(matrix.bits);
  const auto* row = select_trellis_linear(policy, {m, {bits, bits, bits}, kernels::codebook_bit(matrix.codebook)}).row;
  return {row, row->info.tile};
}

std::vector<LinearCandidate> linear_candidates(const Policy& policy, const kernels::TrellisMatrix& matrix, int m) {
  const std::uint8_t codebook = kernels::codebook_bit(matrix.codebook);
  std::vector<LinearCandidate> candidates{default_linear(policy, matrix, m)};
  const kernels::TrellisLinearRow* const preferred = candidates.front().row;
  const auto add = [&](const kernels::TrellisLinearRow& row, const Tile& tile) {
    const LinearCandidate candidate{&row, tile};
    if (std::find(candidates.begin(), candidates.end(), candidate) == candidates.end()) candidates.push_back(candidate);
  };
  for (const kernels::TrellisLinearRow& row : kernels::trellis_linear_rows()) {
    const KernelRow& info = row.info;
    const bool reference = info.backend == kernels::Backend::kCpuRef && preferred->info.backend != info.backend;
    if (reference || info.activations != preferred->info.activations || (info.codebooks & codebook) == 0 ||
        !machine_and_wish_allow(policy, info)) {
      continue;
    }
    add(row, info.tile);
    if (info.tile == Tile{}) continue;
    for (const Tile& tile : {Tile{info.tile.m, 64, 1}, Tile{info.tile.m, 128, 1}, Tile{info.tile.m, 64, 2}}) {
      add(row, tile);
    }
  }
  return candidates;
}

void run_linear(const LinearCandidate& candidate, const LinearWeights& linear, const float* x, int m, float* y,
                kernels::KernelContext& context) {
  const kernels::TrellisMatrix& matrix = linear.trellis();
  const KernelRow& info = candidate.row->info;
  if ((info.codebooks & kernels::codebook_bit(matrix.codebook)) == 0 ||
      !kernels::can_run(info, backend::cpu_info().features)) {
    throw Error(ErrorKind::kUsage, fmt::format("kernel '{}' cannot serve a matrix of {} bits with codebook {} here",
                                               info.id, matrix.bits, codec::codebook_name(matrix.codebook)));
  }
  candidate.row->fn({&matrix, x, linear.in, linear.in, y, linear.out, linear.out, m}, candidate.tile, context);
}

std::vector<BenchmarkResult> LinearTuner::benchmark(const LinearWeights& linear, int batch_size,
                                                    const std::vector<KernelConfig>& configs,
                                                    const TuneOptions& options, kernels::KernelContext& context) {
  if (!linear.is_trellis() || batch_size < 1 || options.warmup < 0 || options.iterations < 1) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("benchmark of a {} matrix with batch size {}, {} warm-up calls and {} iterations; expected a "
                    "trellis-coded one, 1 or more, 0 or more, 1 or more",
                    linear.is_trellis() ? "trellis-coded" : "plain", batch_size, options.warmup, options.iterations));
  }
  const std::vector<LinearCandidate> candidates = wanted(linear, batch_size, configs, options.policy);
  Rounds rounds(linear, batch_size, candidates, context);
  const int total = options.warmup + options.iterations;
  for (int round = 0; round < total; ++round) {
    if (!rounds.run(round, round >= options.warmup, options.cancel)) break;
    if (options.progress) options.progress(round + 1, total, fmt::format("{} tokens", batch_size));
  }
  if (rounds.samples().front().empty()) return {};

  const kernels::TrellisMatrix& matrix = linear.trellis();
  const double bytes = static_cast<double>(matrix.in) * matrix.out * matrix.bits / 8;
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::vector<BenchmarkResult> results;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const double ms = median(rounds.samples()[i]);
    results.push_back({config_of(candidates[i]), ms, bytes / ms / 1e6, bytes / 1e6, now, rounds.samples()[i]});
  }
  TunedLinear entry{
      {batch_size, context.pool.size(), linear.in, linear.out, matrix.bits, codec::codebook_name(matrix.codebook)},
      results[fastest_beyond_doubt(rounds.samples(), std::vector<bool>(candidates.size(), true))].config,
      results.front().config,
      {}};
  std::stable_sort(results.begin(), results.end(),
                   [](const BenchmarkResult& a, const BenchmarkResult& b) { return a.latency_ms < b.latency_ms; });
  for (const BenchmarkResult& result : results) {
    entry.measured.push_back({result.config, result.latency_ms, result.samples_ms});
  }
  put(std::move(entry));
  return results;
}

void LinearTuner::put(TunedLinear entry) {
  const std::lock_guard lock(mutex_);
  for (TunedLinear& old : entries_) {
    if (old.call != entry.call) continue;
    old = std::move(entry);
    return;
  }
  entries_.push_back(std::move(entry));
}

std::optional<TunedLinear> LinearTuner::find(const LinearCall& call) const {
  const std::lock_guard lock(mutex_);
  const TunedLinear* nearest = nullptr;
  double least = kNearestRatio;
  for (const TunedLinear& entry : entries_) {
    LinearCall same = entry.call;
    same.tokens = call.tokens;
    if (same != call || call.tokens < 1) continue;
    const double ratio = static_cast<double>(std::max(call.tokens, entry.call.tokens)) /
                         static_cast<double>(std::min(call.tokens, entry.call.tokens));
    if (ratio > least || (nearest != nullptr && ratio == least)) continue;
    nearest = &entry;
    least = ratio;
  }
  if (nearest == nullptr) return std::nullopt;
  return *nearest;
}

std::vector<TunedLinear> LinearTuner::entries() const {
  const std::lock_guard lock(mutex_);
  return entries_;
}

std::string LinearTuner::to_json() const {
  Json all = Json::array();
  for (const TunedLinear& entry : entries()) {
    Json measured = Json::array();
    for (const MeasuredKernel& one : entry.measured) {
      Json json = config_json(one.config);
      json["median_ms"] = one.median_ms;
      json["samples_ms"] = one.samples_ms;
      measured.push_back(std::move(json));
    }
    all.push_back({{"tokens", entry.call.tokens},
                   {"threads", entry.call.threads},
                   {"in", entry.call.in},
                   {"out", entry.call.out},
                   {"bits", entry.call.bits},
                   {"codebook", entry.call.codebook},
                   {"best", config_json(entry.best)},
                   {"default", config_json(entry.fallback)},
                   {"measured", std::move(measured)}});
  }
  return all.dump(2);
}

void LinearTuner::add_json(const std::string& text, const std::string& source) {
  std::vector<TunedLinear> read;
  try {
    for (const Json& json : Json::parse(text)) read.push_back(entry_from(json));
  } catch (const Json::exception& problem) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: entries of single layers: {}", source, problem.what()));
  } catch (const Error& problem) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: entries of single layers: {}", source, problem.what()));
  }
  for (TunedLinear& entry : read) put(std::move(entry));
}

}  // namespace fairway::select
