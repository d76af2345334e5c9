// fairway compare: how far quantized models are from the model that they were made of.
#include "cli/compare.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "cli/cli.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

using engine::Comparison;
using engine::Engine;

std::string name_of(const Engine& engine) {
  return engine.model().checkpoint().directory().string();
}

std::string tokenizer_file(const Engine& engine) {
  return read_file(engine.model().checkpoint().directory() / "tokenizer.json", "tokenizer");
}

// Models with different tokenizers predict different things. Files may differ in what the text does not touch; then a
// note says so.
void check_tokenizers(const WindowOptions& options, const Engine& a, const Engine& b, const std::vector<int>& ids) {
  const bool same_file = tokenizer_file(a) == tokenizer_file(b);
  if (same_file && a.tokenizer().bos_id() == b.tokenizer().bos_id()) return;
  if (!options.text.empty()) {
    const std::vector<int> other = token_stream(options, b);
    const auto [at, other_at] = std::mismatch(ids.begin(), ids.end(), other.begin(), other.end());
    if (at != ids.end() || other_at != other.end()) {
      const auto token = [](auto found, auto end) { return found == end ? "none" : std::to_string(*found); };
      throw Error(ErrorKind::kBadInput,
                  fmt::format("the tokenizers of {} and {} differ: token {} of {} is {} for the first and {} for the "
                              "second",
                              name_of(a), name_of(b), at - ids.begin(), options.text, token(at, ids.end()),
                              token(other_at, other.end())));
    }
  }
  fmt::print(stderr, "fairway: note: the tokenizers of {} and {} are not the same{}\n", name_of(a), name_of(b),
             options.text.empty() ? "" : ", but give the same tokens for this text");
}

WindowPlan plan_for_all(const WindowOptions& options, std::int64_t tokens, const std::vector<Engine>& engines) {
  WindowPlan plan{};
  for (const Engine& engine : engines) plan = plan_windows(options, tokens, engine);
  return plan;
}

// False if Ctrl-C ended it; complete windows stay in the comparison.
bool compare_windows(Comparison& comparison, std::span<const int> ids, const WindowPlan& plan, int layer_windows) {
  Progress progress("compare");
  for (std::int64_t i = 0; i < plan.count; ++i) {
    try {
      comparison.add_window(plan.window(ids, i), plan.counted(i), i < layer_windows, &cancel_requested());
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kCancelled) throw;
      return false;
    }
    const double divergence = comparison.candidate(0).divergence_sum / static_cast<double>(comparison.tokens());
    progress.update(static_cast<double>(i + 1) / static_cast<double>(plan.count),
                    fmt::format("window {}/{} divergence {:.5f}", i + 1, plan.count, divergence));
  }
  return true;
}

std::vector<Engine> load_all(const CompareOptions& options, const select::Policy& policy) {
  std::vector<Engine> engines;
  engines.reserve(options.models.size());
  for (const std::string& model : options.models) engines.push_back(load_engine(model, options.threads, policy));
  return engines;
}

int compare(const CompareOptions& options, bool json) {
  if (options.models.size() < 2) {
    throw Error(ErrorKind::kUsage, fmt::format("compare needs at least two models, the reference first; there is only "
                                               "{}",
                                               options.models.front()));
  }
  check_window_options(options.windows, "compare");
  const select::Policy policy = start_policy(options.kernels, options.start, options.threads);
  std::vector<Engine> engines = load_all(options, policy);
  std::vector<Engine*> candidates;
  for (std::size_t i = 1; i < engines.size(); ++i) candidates.push_back(&engines[i]);
  Comparison comparison(engines.front(), candidates);
  const std::vector<int> ids = token_stream(options.windows, engines.front());
  for (const Engine* candidate : candidates) check_tokenizers(options.windows, engines.front(), *candidate, ids);
  const WindowPlan plan = plan_for_all(options.windows, static_cast<std::int64_t>(ids.size()), engines);

  const auto start = std::chrono::steady_clock::now();
  const bool complete = compare_windows(comparison, ids, plan, options.layer_windows);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const CompareRun run{options, engines, plan, comparison, seconds, !complete};
  if (json || !options.output.empty()) {
    const Json document = compare_json(run);
    if (!options.output.empty()) write_text_file(options.output, json_text(document), "--output");
    if (json) print_json(document);
  }
  if (!json && comparison.windows() > 0) print_text(compare_text(run));
  report_selection(options.start, *policy.selector);
  if (complete) return kExitOk;
  fmt::print(stderr, "fairway: interrupted after {} of {} windows\n", comparison.windows(), plan.count);
  return kExitInterrupted;
}

}  // namespace

void add_compare_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<CompareOptions>();
  CLI::App* command = add_command(
      app, call, "compare",
      "Measure how far models are from a reference: divergence of their predictions, perplexity, size, speed",
      "fairway compare models/original models/books-moe --text book.txt --window 1024 --windows 10");
  command
      ->add_option("models", options->models, "Model directories: the reference first, then those to compare with it")
      ->required()
      ->expected(1, 1000)  // a positional with a higher minimum is not held to it
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("DIR");
  add_window_options(*command, options->windows);
  command
      ->add_option("--layer-windows", options->layer_windows,
                   "Windows whose hidden states are compared after each layer; 0: none")
      ->check(number_in(0, kNoLimit))
      ->capture_default_str();
  command->add_option("--output,-o", options->output, "Write the result file, as --json prints it")->type_name("FILE");
  add_threads_option(*command, options->threads);
  add_kernel_options(*command, options->kernels);
  add_start_options(*command, options->start);
  add_telemetry_option(*command, options->start);
  command->callback([options, &call] { call.action = [options, &call] { return compare(*options, call.json); }; });
}

}  // namespace fairway::cli
