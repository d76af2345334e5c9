// fairway eval: perplexity of a text over windows of a token stream.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/selection.h"
#include "cli/signals.h"
#include "formats/json.h"

namespace fairway::cli {
namespace {

struct EvalOptions {
  std::string model, text, ids, logprobs;
  int threads = 0, window = 1024, stride = 0, windows = 0;
  KernelOptions kernels;
  StartOptions start;
};

// Window i is ids [stride * i, stride * i + window]; all but its first token are predicted.
struct Windows {
  std::int64_t count;
  std::int64_t length;  // predicted tokens of each
  std::int64_t stride;
};

struct Tally {
  double negative_log = 0;  // sum over the counted predictions
  std::int64_t tokens = 0, windows = 0;
  Json logprobs = Json::array();
  bool cancelled = false;
  double perplexity() const { return std::exp(negative_log / static_cast<double>(tokens)); }
};

std::vector<int> parse_ids(const std::string& file, int vocab_size) {
  const nlohmann::json document = formats::parse_json(read_file(file, "--ids"), file);
  const auto bad = [&](const std::string& what) {
    return Error(ErrorKind::kBadInput, fmt::format("{}: {}", file, what));
  };
  if (document.is_object() && !document.contains("ids")) throw bad("the object has no key \"ids\"");
  const nlohmann::json& array = document.is_object() ? document["ids"] : document;
  if (!array.is_array()) throw bad("expected an array of token ids, or an object with such an array as \"ids\"");
  std::vector<int> ids;
  ids.reserve(array.size());
  for (const nlohmann::json& item : array) {
    const bool inside = item.is_number_integer() && item >= 0 && item < vocab_size;
    if (!inside) {
      throw bad(fmt::format("ids[{}] is {}, expected an integer from 0 to {}", ids.size(),
                            formats::printable(item.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)),
                            vocab_size - 1));
    }
    ids.push_back(item.get<int>());
  }
  return ids;
}

std::vector<int> token_stream(const EvalOptions& options, const engine::Engine& engine) {
  if (!options.ids.empty()) return parse_ids(options.ids, engine.model().config().vocab_size);
  try {
    return formats::encode_documents(engine.tokenizer(), read_file(options.text, "--text"));
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kBadInput || std::string_view(e.what()).starts_with("--text")) throw;
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}", options.text, e.what()));
  }
}

Windows plan_windows(const EvalOptions& options, std::int64_t tokens, const std::string& source) {
  if (tokens < 2) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: {} tokens, at least 2 are needed to predict one", source, tokens));
  }
  const std::int64_t stride = options.stride > 0 ? options.stride : options.window;
  if (tokens <= options.window) return {1, tokens - 1, stride};
  std::int64_t count = (tokens - 1 - options.window) / stride + 1;
  if (options.windows > 0) count = std::min<std::int64_t>(count, options.windows);
  return {count, options.window, stride};
}

void add_window(std::span<const int> ids, const std::vector<float>& logprobs, std::int64_t counted, const Windows& plan,
                bool keep, Tally& tally) {
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    if (!(logprobs[i] <= 0.0f) || std::isinf(logprobs[i])) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("window {}: the log-probability of token {} is {}; the weights are damaged",
                              tally.windows, i + 1, logprobs[i]));
    }
  }
  const std::size_t first = logprobs.size() - static_cast<std::size_t>(counted);
  for (std::size_t i = first; i < logprobs.size(); ++i) tally.negative_log -= static_cast<double>(logprobs[i]);
  tally.tokens += counted;
  if (keep) {
    tally.logprobs.push_back({{"start", tally.windows * plan.stride},
                              {"first_counted", first},
                              {"ids", std::vector<int>(ids.begin(), ids.end())},
                              {"logprobs", logprobs}});
  }
  ++tally.windows;
}

// The engine ends a cancelled window with Error(kCancelled); what was counted before stays valid.
std::optional<std::vector<float>> window_logprobs(engine::Engine& engine, std::span<const int> ids) {
  try {
    std::vector<float> logprobs = engine.logprobs(ids, &cancel_requested());
    if (cancel_requested()) return std::nullopt;
    return logprobs;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kCancelled) throw;
    return std::nullopt;
  }
}

Tally evaluate(engine::Engine& engine, std::span<const int> ids, const Windows& plan, bool keep) {
  Tally tally;
  Progress progress("eval");
  for (std::int64_t i = 0; i < plan.count; ++i) {
    const std::span<const int> window =
        ids.subspan(static_cast<std::size_t>(i * plan.stride), static_cast<std::size_t>(plan.length) + 1);
    const auto logprobs = window_logprobs(engine, window);
    if (!logprobs) {
      tally.cancelled = true;
      break;
    }
    add_window(window, *logprobs, i == 0 ? plan.length : std::min(plan.stride, plan.length), plan, keep, tally);
    progress.update(static_cast<double>(i + 1) / static_cast<double>(plan.count),
                    fmt::format("window {}/{} perplexity {:.4f}", i + 1, plan.count, tally.perplexity()));
  }
  return tally;
}

Json result_json(const engine::Engine& engine, const EvalOptions& options, const Windows& plan, const Tally& tally,
                 double seconds) {
  return {{"perplexity", tally.tokens > 0 ? Json(tally.perplexity()) : Json(nullptr)},
          {"tokens", tally.tokens},
          {"seconds", seconds},
          {"windows", tally.windows},
          {"window", plan.length},
          {"stride", plan.stride},
          {"tokens_per_second", static_cast<double>(tally.windows * plan.length) / seconds},
          {"stop", tally.cancelled ? "cancelled" : "complete"},
          {"source", options.text.empty() ? options.ids : options.text},
          {"threads", engine.threads()},
          {"load_seconds", engine.load_seconds()},
          {"peak_memory_bytes", peak_memory_bytes()},
          {"kernels", kernels_json(engine.counters())},
          {"counters", counters_json(engine.counters())},
          {"model", model_json(engine.model())}};
}

void check_options(const EvalOptions& options) {
  if (options.text.empty() == options.ids.empty()) {
    throw Error(ErrorKind::kUsage, "eval needs exactly one of --text FILE and --ids FILE");
  }
  if (options.stride > options.window) {
    throw Error(ErrorKind::kUsage, fmt::format("--stride {} is larger than --window {}: tokens would be skipped",
                                               options.stride, options.window));
  }
}

int eval(const EvalOptions& options, bool json) {
  check_options(options);
  const select::Policy policy = start_policy(options.kernels, options.start, options.threads);
  engine::Engine engine = load_engine(options.model, options.threads, policy);
  const std::vector<int> ids = token_stream(options, engine);
  const Windows plan =
      plan_windows(options, static_cast<std::int64_t>(ids.size()), options.text.empty() ? options.ids : options.text);
  const int limit = engine.model().config().max_position_embeddings;
  if (plan.length > limit) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--window {} is larger than the {} positions of {}", plan.length, limit, options.model));
  }
  const auto start = std::chrono::steady_clock::now();
  const Tally tally = evaluate(engine, ids, plan, !options.logprobs.empty());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!options.logprobs.empty() && tally.windows > 0) {
    const Json& all = tally.logprobs;
    write_text_file(options.logprobs, json_text(all.size() == 1 ? all.front() : all), "--logprobs");
  }
  if (json) {
    print_json(result_json(engine, options, plan, tally, seconds));
  } else if (tally.tokens > 0) {
    print_text(fmt::format("perplexity {:.4f} over {} tokens ({} windows of {}) in {:.2f} s\n", tally.perplexity(),
                           tally.tokens, tally.windows, plan.length, seconds));
  }
  report_selection(options.start, *policy.selector);
  if (tally.cancelled) fmt::print(stderr, "fairway: interrupted after {} of {} windows\n", tally.windows, plan.count);
  return tally.cancelled ? kExitInterrupted : kExitOk;
}

}  // namespace

void add_eval_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<EvalOptions>();
  CLI::App* command = add_command(app, call, "eval", "Measure perplexity over windows of a text or of token ids",
                                  "fairway eval --model models/books-moe --text book.txt --window 1024 --windows 10");
  add_model_option(*command, options->model);
  command->add_option("--text", options->text, "Text file; documents are separated by a line feed and a NUL")
      ->type_name("FILE");
  command->add_option("--ids", options->ids, "JSON array of token ids, or an object with the key \"ids\"")
      ->type_name("FILE");
  command->add_option("--window", options->window, "Predicted tokens per window")
      ->check(number_in(1, kNoLimit))
      ->capture_default_str();
  command
      ->add_option(
          "--stride", options->stride,
          "Tokens from one window to the next (default: the window); of later windows only the last so many count")
      ->check(number_in(1, kNoLimit));
  command->add_option("--windows", options->windows, "Windows at most (default: all)")->check(number_in(1, kNoLimit));
  command->add_option("--logprobs", options->logprobs, "Write ids and log-probabilities of every window here, as JSON")
      ->type_name("OUT");
  add_threads_option(*command, options->threads);
  add_kernel_options(*command, options->kernels);
  add_start_options(*command, options->start);
  add_telemetry_option(*command, options->start);
  command->callback([options, &call] { call.action = [options, &call] { return eval(*options, call.json); }; });
}

}  // namespace fairway::cli
