// fairway bench coder: how fast and how well the quantizer's tile coder codes Gaussian weights.
#include <fmt/chrono.h>
#include <fmt/core.h>

#include <array>
#include <chrono>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>

#include "backend/cpu/core_ceiling.h"
#include "backend/cpu/features.h"
#include "backend/cpu/thread_pool.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "codec/bits.inc"
#include "codec/packing.h"
#include "fairway/error.h"
#include "quantize/code_profile.h"
#include "quantize/tile_coder.h"

namespace fairway::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr codec::Codebook kCodebooks[] = {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1};

constexpr double kStatesPerStep = 65536;
// The least that a state costs: a subtraction, a multiply-add and a minimum; and what a core does at most: two of them
// a cycle, all lanes of a vector at once.
constexpr double kOperationsPerState = 3, kOperationsPerCycle = 2;

struct CoderOptions {
  std::vector<int> bits = {1, 2, 3, 4, 5, 6, 7, 8};
  std::string codebook = "mul1", isa = "best", effort = "standard", output;
  int tiles = 32, threads = 0, runs = 3;
};

// The one of `all` that `name_of` gives the wanted name.
template <typename T, std::size_t kCount>
T named(const char* flag, const std::string& wanted, const T (&all)[kCount], const char* (*name_of)(T)) {
  std::vector<std::string> names;
  for (const T candidate : all) {
    names.emplace_back(name_of(candidate));
    if (names.back() == wanted) return candidate;
  }
  throw Error(ErrorKind::kUsage, fmt::format("{} '{}': expected {}", flag, wanted, fmt::join(names, ", ")));
}

struct CoderJob {
  codec::Codebook codebook;
  quantize::CoderIsa isa;
  quantize::CoderEffort effort;
  int bits, tiles;

  double sigma() const { return quantize::code_profile(codebook, bits).gain; }
};

struct CoderSample {
  double seconds = 0, core_ghz = 0;
  double error = 0;  // mean squared error relative to the variance that the weights are drawn with
  std::int64_t steps = 0;
};

// GHz of the calling core, from a loop with one addition a cycle.
double core_ghz() {
  constexpr std::int64_t kAdditions = 2'000'000;
  const auto start = Clock::now();
  const std::uint64_t done = backend::dependent_additions(kAdditions);
  return static_cast<double>(done) / 1e9 / std::chrono::duration<double>(Clock::now() - start).count();
}

// Every tile has a seed of its own: the same tiles whatever the number of threads.
std::array<float, codec::kTileWeights> gaussian_tile(std::int64_t seed, double sigma) {
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  std::normal_distribution<double> normal(0, sigma);
  std::array<float, codec::kTileWeights> tile;
  for (float& w : tile) w = static_cast<float>(normal(random));
  return tile;
}

CoderSample measure(const CoderJob& job, std::vector<std::unique_ptr<quantize::TileCoder>>& coders,
                    backend::ThreadPool& pool) {
  std::vector<double> errors(static_cast<std::size_t>(job.tiles));
  const auto steps = [&] {
    return std::accumulate(coders.begin(), coders.end(), std::int64_t{0},
                           [](std::int64_t sum, const auto& coder) { return sum + coder->steps(); });
  };
  CoderSample sample;
  sample.core_ghz = core_ghz();
  const std::int64_t before = steps();
  const auto start = Clock::now();
  pool.parallel_for(job.tiles, [&](std::int64_t tile, int worker) {
    std::array<std::uint16_t, codec::kTileWeights> states;
    errors[static_cast<std::size_t>(tile)] =
        coders[static_cast<std::size_t>(worker)]->encode(gaussian_tile(tile + 1, job.sigma()), states);
  });
  sample.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  sample.steps = steps() - before;
  const double variance = job.sigma() * job.sigma() * codec::kTileWeights * job.tiles;
  sample.error = std::accumulate(errors.begin(), errors.end(), 0.0) / variance;
  return sample;
}

Json result_of(const CoderJob& job, const std::vector<CoderSample>& samples, int threads,
               const quantize::TileCoder& coder) {
  std::vector<double> ms, weights, states, shares, ghz;
  for (const CoderSample& sample : samples) {
    const double core_seconds = sample.seconds * threads;
    ms.push_back(1e3 * core_seconds / job.tiles);
    weights.push_back(job.tiles * codec::kTileWeights / core_seconds);
    states.push_back(static_cast<double>(sample.steps) * kStatesPerStep / core_seconds / 1e9);
    ghz.push_back(sample.core_ghz);
    shares.push_back(states.back() / (coder.lanes() * kOperationsPerCycle / kOperationsPerState * sample.core_ghz));
  }
  return {{"bits", job.bits},
          {"isa", quantize::coder_isa_name(coder.isa())},
          {"sigma", job.sigma()},
          {"mse", samples.front().error},
          {"steps_per_weight", static_cast<double>(samples.front().steps) / job.tiles / codec::kTileWeights},
          {"core_ms_per_tile", spread_json(ms)},
          {"weights_per_core_second", spread_json(weights)},
          {"g_states_per_core_second", spread_json(states)},
          {"core_ghz", spread_json(ghz)},
          {"share_of_peak", spread_json(shares)}};
}

std::string text_of(const Json& document) {
  std::string text =
      fmt::format("{} {}, {} threads, effort {}\n\n{:>4} {:>10} {:>6} {:>12} {:>15} {:>11} {:>8}\n",
                  document["options"]["codebook"].get<std::string>(), document["results"][0]["isa"].get<std::string>(),
                  document["options"]["threads"].get<int>(), document["options"]["effort"].get<std::string>(), "bits",
                  "mse", "steps", "core ms/tile", "weights/core s", "G states/s", "of peak");
  for (const Json& cell : document["results"]) {
    const auto middle = [&](const char* key) { return cell[key]["median"].get<double>(); };
    text += fmt::format("{:>4} {:>10.4g} {:>6.2f} {:>12.3f} {:>15.0f} {:>11.1f} {:>7.0f}%\n", cell["bits"].get<int>(),
                        cell["mse"].get<double>(), cell["steps_per_weight"].get<double>(), middle("core_ms_per_tile"),
                        middle("weights_per_core_second"), middle("g_states_per_core_second"),
                        100 * middle("share_of_peak"));
  }
  return text + "\nmse: of weights of variance 1; steps: of the search per weight, 65,536 states each\n";
}

Json document_of(const CoderOptions& options, int threads, Json results) {
  Json document = result_header("fairway-bench-1", "coder", command_line());
  document.update({{"options",
                    {{"bits", options.bits},
                     {"codebook", options.codebook},
                     {"isa", options.isa},
                     {"effort", options.effort},
                     {"tiles", options.tiles},
                     {"threads", threads},
                     {"runs", options.runs}}},
                   {"stop", cancel_requested() ? "cancelled" : "complete"},
                   {"results", std::move(results)}});
  return document;
}

CoderJob job_of(const CoderOptions& options) {
  using quantize::CoderEffort;
  using quantize::CoderIsa;
  constexpr CoderIsa kIsas[] = {CoderIsa::kBest, CoderIsa::kScalar, CoderIsa::kAvx2, CoderIsa::kAvx512};
  constexpr CoderEffort kEfforts[] = {CoderEffort::kQuick, CoderEffort::kStandard, CoderEffort::kThorough};
  CoderJob job{};
  job.codebook = named("--codebook", options.codebook, kCodebooks, codec::codebook_name);
  job.isa = named("--isa", options.isa, kIsas, quantize::coder_isa_name);
  job.effort = named("--effort", options.effort, kEfforts, quantize::coder_effort_name);
  job.tiles = options.tiles;
  return job;
}

// One width, as often as wanted or until Ctrl-C; null without a complete run.
Json measure_width(const CoderOptions& options, const CoderJob& job, backend::ThreadPool& pool) {
  std::vector<std::unique_ptr<quantize::TileCoder>> coders;
  coders.reserve(static_cast<std::size_t>(pool.size()));
  for (int i = 0; i < pool.size(); ++i) {
    coders.push_back(std::make_unique<quantize::TileCoder>(job.codebook, job.bits, job.isa, job.effort));
  }
  std::vector<CoderSample> samples;
  samples.reserve(static_cast<std::size_t>(options.runs));
  for (int run = 0; run < options.runs && !cancel_requested(); ++run) samples.push_back(measure(job, coders, pool));
  return samples.empty() ? Json() : result_of(job, samples, pool.size(), *coders.front());
}

int bench_coder(const CoderOptions& options, bool json) {
  CoderJob job = job_of(options);
  backend::ThreadPool pool(options.threads);
  Progress progress("coding");
  Json results = Json::array();
  for (const int bits : options.bits) {
    job.bits = bits;
    progress.update(static_cast<double>(results.size()) / static_cast<double>(options.bits.size()),
                    fmt::format("{} bits", bits));
    Json result = measure_width(options, job, pool);
    if (!result.is_null()) results.push_back(std::move(result));
  }
  progress.clear();
  if (results.empty()) throw Error(ErrorKind::kCancelled, "interrupted before the first run was complete");
  const Json document = document_of(options, pool.size(), std::move(results));
  if (!options.output.empty()) write_text_file(options.output, json_text(document), "--output");
  if (json) {
    print_json(document);
  } else {
    print_text(text_of(document));
  }
  return cancel_requested() ? kExitInterrupted : kExitOk;
}

}  // namespace

void add_bench_coder(CLI::App& bench_command, Invocation& call) {
  const auto options = std::make_shared<CoderOptions>();
  CLI::App* command = add_command(bench_command, call, "coder", "Speed and error of the quantizer's tile coder",
                                  "fairway bench coder --bits 2,3,4 --tiles 64 --threads 1");
  command->add_option("--bits", options->bits, "Bits per weight, a list such as 2,3,4 (default: 1 to 8)")
      ->delimiter(',')
      ->check(number_in(FAIRWAY_MIN_BITS, FAIRWAY_MAX_BITS))
      ->type_name("LIST");
  command->add_option("--codebook", options->codebook, "mul1, mcg or 3inst")->capture_default_str()->type_name("NAME");
  command->add_option("--tiles", options->tiles, "Tiles of 256 Gaussian weights for each width")
      ->check(number_in(1, 1e6))
      ->capture_default_str();
  add_threads_option(*command, options->threads);
  command->add_option("--runs", options->runs, "Times that they are coded")
      ->check(number_in(1, 1e6))
      ->capture_default_str();
  command->add_option("--isa", options->isa, "Instruction set: best, avx512, avx2 or scalar (slow)")
      ->capture_default_str()
      ->type_name("NAME");
  command->add_option("--effort", options->effort, "Length of the search: quick, standard or thorough")
      ->capture_default_str()
      ->type_name("NAME");
  command->add_option("--output,-o", options->output, "Write the result file here")->type_name("FILE");
  command->callback([options, &call] { call.action = [options, &call] { return bench_coder(*options, call.json); }; });
}

}  // namespace fairway::cli
