// fairway eval: perplexity of a text over windows of a token stream.
#include <fmt/core.h>

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
#include "cli/windows.h"

namespace fairway::cli {
namespace {

struct EvalOptions {
  std::string model, logprobs;
  bool routing_margins = false;
  int threads = 0;
  WindowOptions windows;
  KernelOptions kernels;
  DeviceOptions device;
  StartOptions start;
};

struct Tally {
  double negative_log = 0;  // sum over the counted predictions
  std::int64_t tokens = 0, windows = 0;
  Json logprobs = Json::array();
  bool cancelled = false;
  double perplexity() const { return std::exp(negative_log / static_cast<double>(tokens)); }
};

void add_window(std::span<const int> ids, const std::vector<float>& logprobs, std::int64_t counted,
                const WindowPlan& plan, bool keep, const std::vector<double>& margins, Tally& tally) {
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
    if (!margins.empty()) tally.logprobs.back()["routing_margins"] = margins;
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

Tally evaluate(engine::Engine& engine, std::span<const int> ids, const WindowPlan& plan, bool keep) {
  Tally tally;
  Progress progress("eval");
  for (std::int64_t i = 0; i < plan.count; ++i) {
    const std::span<const int> window = plan.window(ids, i);
    const auto logprobs = window_logprobs(engine, window);
    if (!logprobs) {
      tally.cancelled = true;
      break;
    }
    add_window(window, *logprobs, plan.counted(i), plan, keep, engine.take_routing_margins(), tally);
    progress.update(static_cast<double>(i + 1) / static_cast<double>(plan.count),
                    fmt::format("window {}/{} perplexity {:.4f}", i + 1, plan.count, tally.perplexity()));
  }
  return tally;
}

Json result_json(const engine::Engine& engine, const EvalOptions& options, const WindowPlan& plan, const Tally& tally,
                 double seconds) {
  return {{"perplexity", tally.tokens > 0 ? Json(tally.perplexity()) : Json(nullptr)},
          {"tokens", tally.tokens},
          {"seconds", seconds},
          {"windows", tally.windows},
          {"window", plan.length},
          {"stride", plan.stride},
          {"tokens_per_second", static_cast<double>(tally.windows * plan.length) / seconds},
          {"stop", tally.cancelled ? "cancelled" : "complete"},
          {"source", options.windows.source()},
          {"threads", engine.threads()},
          {"device", device_json(engine)},
          {"load_seconds", engine.load_seconds()},
          {"peak_memory_bytes", peak_memory_bytes()},
          {"kernels", kernels_json(engine.counters())},
          {"counters", counters_json(engine.counters())},
          {"model", model_json(engine.model())}};
}

int eval(EvalOptions options, bool json) {
  give_table_to_device(options.start, options.device);
  check_window_options(options.windows, "eval");
  if (options.routing_margins && options.logprobs.empty()) {
    throw Error(ErrorKind::kUsage, "--routing-margins needs --logprobs");
  }
  const select::Policy policy = start_policy(options.kernels, options.start, options.threads);
  engine::Engine engine = load_engine(options.model, options.threads, policy, false, options.device);
  if (options.routing_margins) engine.watch_routing();
  const std::vector<int> ids = token_stream(options.windows, engine);
  const WindowPlan plan = plan_windows(options.windows, static_cast<std::int64_t>(ids.size()), engine);
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
  add_window_options(*command, options->windows);
  command->add_option("--logprobs", options->logprobs, "Write ids and log-probabilities of every window here, as JSON")
      ->type_name("OUT");
  command->add_flag("--routing-margins", options->routing_margins,
                    "With --logprobs, on the CPU: how near the routers' choices for each token were to others");
  add_threads_option(*command, options->threads);
  add_device_options(*command, options->device);
  add_kernel_options(*command, options->kernels);
  add_start_options(*command, options->start);
  add_telemetry_option(*command, options->start);
  command->callback([options, &call] { call.action = [options, &call] { return eval(*options, call.json); }; });
}

}  // namespace fairway::cli
