// fairway run: continues a prompt, streaming text.
#include <fmt/core.h>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <memory>

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/selection.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

struct RunOptions {
  std::string model, prompt;
  int threads = 0;
  KernelOptions kernels;
  DeviceOptions device;
  StartOptions start;
  engine::GenerateOptions generate;
  bool ignore_eos = false, no_echo = false, routing_margins = false;
};

std::string read_prompt(const std::string& prompt) {
  if (prompt != "-") return prompt;
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  throw_if_cancelled("reading the prompt from standard input");
  if (std::cin.bad()) throw Error(ErrorKind::kBadInput, "--prompt -: reading standard input failed");
  return text;
}

std::vector<int> encode_prompt(const engine::Engine& engine, const std::string& prompt) {
  try {
    std::vector<int> ids = engine.encode_prompt(prompt);
    if (ids.empty()) {
      throw Error(ErrorKind::kUsage, "--prompt is empty, and this model has no token that starts a text");
    }
    return ids;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kBadInput) throw;
    throw Error(ErrorKind::kBadInput, fmt::format("--prompt: {}", e.what()));
  }
}

// At temperature 0 the other filters change nothing; better said than wondered about.
void note_unused_filters(const kernels::SampleParams& sample) {
  const bool filters = sample.top_k != 0 || sample.top_p != 1.0f || sample.min_p != 0.0f;
  if (sample.temperature == 0.0f && filters) {
    fmt::print(stderr, "fairway: note: --top-k, --top-p and --min-p have no effect at --temperature 0\n");
  }
}

// [new tokens][wanted][id, log-probability]
Json top_logprobs_json(const engine::GenerateResult& result) {
  Json rows = Json::array();
  for (const auto& tokens : result.top_logprobs) {
    Json& row = rows.emplace_back(Json::array());
    for (const engine::TokenLogprob& token : tokens) row.push_back({token.id, token.logprob});
  }
  return rows;
}

// Of the rows whose logits the new tokens were chosen from: the prompt's last one, and every new token but the last.
Json routing_margins_json(engine::Engine& engine, const engine::GenerateResult& result) {
  const std::vector<double> rows = engine.take_routing_margins();
  const std::size_t first = static_cast<std::size_t>(std::max(result.prompt_tokens - 1, 0));
  return first < rows.size() ? Json(std::vector<double>(rows.begin() + static_cast<std::ptrdiff_t>(first), rows.end()))
                             : Json::array();
}

// program_memory: peak of the process before it opened the model, which is code and libraries.
Json result_json(const engine::Engine& engine, const std::vector<int>& prompt, const engine::GenerateResult& result,
                 std::int64_t program_memory) {
  return {{"ids", result.ids},
          {"prompt_ids", prompt},
          {"text", result.text},
          {"prompt_tokens", result.prompt_tokens},
          {"tokens_per_second", result.tokens_per_second()},
          {"prefill_seconds", result.prefill_seconds},
          {"decode_seconds", result.decode_seconds},
          {"load_seconds", engine.load_seconds()},
          {"stop", engine::stop_reason_name(result.stop)},
          {"threads", engine.threads()},
          {"device", device_json(engine)},
          {"peak_memory_bytes", peak_memory_bytes()},
          {"program_memory_bytes", program_memory},
          {"kernels", kernels_json(engine.counters())},
          {"counters", counters_json(engine.counters())},
          {"model", model_json(engine.model())}};
}

void print_statistics(const engine::Engine& engine, const engine::GenerateResult& result) {
  fmt::print(
      stderr,
      "[{} tokens, {:.1f} tokens/s | prompt {} tokens in {:.3f} s | load {:.3f} s | {} threads | {} | {} | {}]\n",
      result.ids.size(), result.tokens_per_second(), result.prompt_tokens, result.prefill_seconds,
      engine.load_seconds(), engine.threads(), human_bytes(static_cast<double>(peak_memory_bytes())), runs_on(engine),
      engine::stop_reason_name(result.stop));
}

int run(RunOptions options, bool json) {
  if (options.generate.top_logprobs > 0 && !json) throw Error(ErrorKind::kUsage, "--top-logprobs needs --json");
  if (options.routing_margins && !json) throw Error(ErrorKind::kUsage, "--routing-margins needs --json");
  give_table_to_device(options.start, options.device);
  const select::Policy policy = start_policy(options.kernels, options.start, options.threads);
  const std::string text = read_prompt(options.prompt);
  const std::int64_t program_memory = peak_memory_bytes();
  engine::Engine engine = load_engine(options.model, options.threads, policy, false, options.device);
  const std::vector<int> prompt = encode_prompt(engine, text);
  note_unused_filters(options.generate.sample);

  engine::GenerateOptions generate = options.generate;
  generate.stop_at_eos = !options.ignore_eos;
  generate.cancel = &cancel_requested();
  if (options.routing_margins) engine.watch_routing();
  engine::GenerateResult result;
  if (json) {
    result = engine.generate(prompt, generate);
    Json document = result_json(engine, prompt, result, program_memory);
    if (generate.top_logprobs > 0) document["top_logprobs"] = top_logprobs_json(result);
    if (options.routing_margins) document["routing_margins"] = routing_margins_json(engine, result);
    print_json(document);
  } else {
    if (!options.no_echo) print_text(text);
    result = engine.generate(prompt, generate, [](std::string_view piece) { print_text(piece); });
    print_text("\n");
    print_statistics(engine, result);
  }
  report_selection(options.start, *policy.selector);
  return result.stop == engine::StopReason::kCancelled ? kExitInterrupted : kExitOk;
}

void add_sampling_options(CLI::App& command, RunOptions& options) {
  kernels::SampleParams& sample = options.generate.sample;
  command.add_option("--temperature", sample.temperature, "0: greedy; higher: more random")
      ->check(number_in(0, 100))
      ->capture_default_str();
  command.add_option("--top-k", sample.top_k, "Keep the k likeliest tokens; 0: off")->check(number_in(0, kNoLimit));
  command.add_option("--top-p", sample.top_p, "Keep the likeliest tokens up to this total probability; 1: off")
      ->check(number_above(0, 1));
  command.add_option("--min-p", sample.min_p, "Drop tokens less likely than this share of the likeliest; 0: off")
      ->check(number_in(0, 0.999999));
  command
      .add_option("--repetition-penalty", sample.repetition_penalty, "Above 1: seen tokens become less likely; 1: off")
      ->check(number_above(0, 100));
  command.add_option("--seed", options.generate.seed, "Same seed, same text")->capture_default_str();
}

}  // namespace

void add_run_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      add_command(app, call, "run", "Continue a prompt; text streams to standard output, statistics to standard error",
                  "fairway run --model models/books-moe --prompt \"The old house\" --max-tokens 64 --temperature 0.8");
  add_model_option(*command, options->model);
  command->add_option("--prompt,-p", options->prompt, "Text to continue; - reads all of standard input")
      ->required()
      ->type_name("TEXT|-");
  command->add_option("--max-tokens,-n", options->generate.max_tokens, "New tokens at most")
      ->check(number_in(1, kNoLimit))
      ->capture_default_str();
  add_sampling_options(*command, *options);
  add_threads_option(*command, options->threads);
  add_device_options(*command, options->device);
  add_kernel_options(*command, options->kernels);
  add_start_options(*command, options->start);
  add_telemetry_option(*command, options->start);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after the model ends its text");
  command
      ->add_option("--top-logprobs", options->generate.top_logprobs,
                   "With --json: this many likeliest tokens of each step")
      ->check(number_in(1, 100));
  command->add_flag("--routing-margins", options->routing_margins,
                    "With --json, on the CPU: how near the routers' choices for each token were to others");
  command->add_flag("--no-prompt-echo", options->no_echo, "Print the new text only, without the prompt before it");
  command->callback([options, &call] { call.action = [options, &call] { return run(*options, call.json); }; });
}

}  // namespace fairway::cli
