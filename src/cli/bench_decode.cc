// fairway bench decode and prefill: the engine as users run it, timed.
#include <fmt/core.h>

#include <map>

#include "cli/bench.h"
#include "cli/bench_profile.h"
#include "cli/report.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

using Engines = std::map<int, engine::Engine>;  // by thread count

Engines load_engines(const BenchOptions& options, const StartPolicies& policies) {
  Engines engines;
  for (const int threads : options.threads) {
    if (!engines.contains(threads))
      engines.emplace(threads, load_engine(options.model, threads, policies.at(threads), options.profile));
  }
  return engines;
}

void check_length(const engine::Engine& engine, std::int64_t tokens, const char* flags) {
  const int limit = engine.model().config().max_position_embeddings;
  if (tokens > limit) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {} tokens, but the model has {} positions", flags, tokens, limit));
  }
}

engine::GenerateResult generate(engine::Engine& engine, const std::vector<int>& prompt, int tokens) {
  engine::GenerateOptions options;
  options.max_tokens = tokens;
  options.stop_at_eos = false;
  options.cancel = &cancel_requested();
  engine.reset_counters();  // so that a cell's counters are those of one run
  return engine.generate(prompt, options);
}

// samples: seconds. weight_bytes and tokens: per sample.
Json cell_json(const BenchCell& cell, engine::Engine& engine, double weight_bytes, int tokens) {
  std::vector<double> rates, milliseconds;
  for (const double seconds : cell.samples) {
    rates.push_back(tokens / seconds);
    milliseconds.push_back(1e3 * seconds / tokens);
  }
  const double gb_per_second = weight_bytes / median(cell.samples) / 1e9;
  Json json = {{"threads", cell.threads},
               {"batch", cell.batch},
               {"tokens", tokens},
               {"tokens_per_second", spread_json(rates)},
               {"ms_per_token", spread_json(milliseconds)},
               {"weight_gb_per_second", gb_per_second}};
  add_ceilings(cell, gb_per_second, json);
  json["peak_memory_bytes"] = peak_memory_bytes();
  json["kernels"] = kernels_json(engine.counters());
  json["counters"] = counters_json(engine.counters());
  return json;
}

std::string cell_text(const Json& cell) {
  const Json& rate = cell["tokens_per_second"];
  return fmt::format(
      "{:>2} threads  {:8.2f} tokens/s ({:.2f} - {:.2f})  {:8.3f} ms/token  weights {:6.2f} GB/s = {:4.1f}% of {:.1f} "
      "GB/s\n",
      cell["threads"].get<int>(), rate["median"].get<double>(), rate["min"].get<double>(), rate["max"].get<double>(),
      cell["ms_per_token"]["median"].get<double>(), cell["weight_gb_per_second"].get<double>(),
      100 * cell["share_of_ceiling"].get<double>(), cell["ceiling_gb_per_second"]["median"].get<double>());
}

// By thread count; warm-up comes first, and an interrupted round last.
using StageSamples = std::map<int, std::vector<StageSample>>;

void add_profiles(const BenchOptions& options, const StageSamples& stages, Json& results, std::string& text) {
  for (Json& cell : results) {
    // Values, not references: a new key may move those that are there.
    const double median_ms = cell["ms_per_token"]["median"].get<double>();
    const auto samples = static_cast<std::ptrdiff_t>(cell["ms_per_token"]["samples"].size());
    const auto first = stages.at(cell["threads"].get<int>()).begin() + options.warmup;
    const std::vector<StageSample> counted(first, first + samples);
    cell["profile_per_token"] = profile_json(counted, options.decode_tokens);
    text += fmt::format("one token with {} threads:\n", cell["threads"].get<int>());
    text += profile_text(cell["profile_per_token"], median_ms);
  }
}

Json finish(const BenchOptions& options, Engines& engines, const StartPolicies& policies,
            const std::vector<BenchCell>& cells, double weight_bytes, int tokens, std::string& text) {
  Json results = Json::array();
  for (const BenchCell& cell : cells) {
    results.push_back(cell_json(cell, engines.at(cell.threads), weight_bytes, tokens));
    text += cell_text(results.back());
  }
  text += fmt::format("kernel: {}\n", busiest_kernel(engines.begin()->second.counters()));
  policies.print_explanations();
  Json document = bench_document(options, model_json(engines.begin()->second.model()), std::move(results));
  document["selection"] = policies.json();
  return document;
}

}  // namespace

Json bench_decode(const BenchOptions& options, std::string& text) {
  const StartPolicies policies(options.kernels, options.start, options.threads);
  Engines engines = load_engines(options, policies);
  const engine::Engine& first = engines.begin()->second;
  check_length(first, std::int64_t{options.prompt_len} + options.decode_tokens + 1,
               "--prompt-len plus --decode-tokens");
  const std::vector<int> prompt = random_prompt(options.prompt_len, first.model().config().vocab_size);
  StageSamples stages;
  const auto cells = run_rounds(options, [&](int threads, int) {
    // The first token belongs to the prompt's pass; decode time covers the others.
    const engine::GenerateResult result = generate(engines.at(threads), prompt, options.decode_tokens + 1);
    stages[threads].push_back({result.decode_stage_seconds, result.decode_seconds});
    return result.decode_seconds;
  });
  const double bytes = static_cast<double>(first.model().weight_bytes_per_token()) * options.decode_tokens;
  Json document = finish(options, engines, policies, cells, bytes, options.decode_tokens, text);
  if (options.profile) add_profiles(options, stages, document["results"], text);
  return document;
}

Json bench_prefill(const BenchOptions& options, std::string& text) {
  const StartPolicies policies(options.kernels, options.start, options.threads);
  Engines engines = load_engines(options, policies);
  const engine::Engine& first = engines.begin()->second;
  check_length(first, std::int64_t{options.prompt_len} + 1, "--prompt-len");
  const std::vector<int> prompt = random_prompt(options.prompt_len, first.model().config().vocab_size);
  const auto cells =
      run_rounds(options, [&](int threads, int) { return generate(engines.at(threads), prompt, 1).prefill_seconds; });
  // A pass over many tokens touches nearly every expert once, so the file is what has to be read per pass.
  const int passes =
      (options.prompt_len + engine::EngineOptions().prefill_chunk - 1) / engine::EngineOptions().prefill_chunk;
  const double bytes = static_cast<double>(first.model().checkpoint().file_bytes()) * passes;
  return finish(options, engines, policies, cells, bytes, options.prompt_len, text);
}

}  // namespace fairway::cli
