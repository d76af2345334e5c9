// Token streams and their windows.
#include "cli/windows.h"

#include <fmt/core.h>

#include <algorithm>

#include "formats/token_file.h"

namespace fairway::cli {
void add_window_options(CLI::App& command, WindowOptions& options) {
  command.add_option("--text", options.text, "Text file; documents are separated by a line feed and a NUL")
      ->type_name("FILE");
  command.add_option("--ids", options.ids, "JSON array of token ids, or an object with the key \"ids\"")
      ->type_name("FILE");
  command.add_option("--window", options.window, "Predicted tokens per window")
      ->check(number_in(1, kNoLimit))
      ->capture_default_str();
  command
      .add_option(
          "--stride", options.stride,
          "Tokens from one window to the next (default: the window); of later windows only the last so many count")
      ->check(number_in(1, kNoLimit));
  command.add_option("--windows", options.windows, "Windows at most (default: all)")->check(number_in(1, kNoLimit));
}

void check_window_options(const WindowOptions& options, const char* command) {
  if (options.text.empty() == options.ids.empty()) {
    throw Error(ErrorKind::kUsage, fmt::format("{} needs exactly one of --text FILE and --ids FILE", command));
  }
  if (options.stride > options.window) {
    throw Error(ErrorKind::kUsage, fmt::format("--stride {} is larger than --window {}: tokens would be skipped",
                                               options.stride, options.window));
  }
}

std::vector<int> read_tokens(const TokenSource& source, const formats::Tokenizer& tokenizer, int vocab_size) {
  const bool is_ids = !source.ids.empty();
  const std::string& file = is_ids ? source.ids : source.text;
  return formats::parse_token_file(is_ids ? formats::TokenFile::kIds : formats::TokenFile::kText,
                                   read_file(file, is_ids ? source.ids_flag : source.text_flag), file, tokenizer,
                                   vocab_size);
}

std::vector<int> token_stream(const WindowOptions& options, const engine::Engine& engine) {
  return read_tokens({options.text, options.ids, "--text", "--ids"}, engine.tokenizer(),
                     engine.model().config().vocab_size);
}

WindowPlan plan_windows(const WindowOptions& options, std::int64_t tokens, const engine::Engine& engine) {
  if (tokens < 2) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: {} tokens, at least 2 are needed to predict one", options.source(), tokens));
  }
  WindowPlan plan{1, tokens - 1, options.stride > 0 ? options.stride : options.window};
  if (tokens > options.window) {
    plan.count = (tokens - 1 - options.window) / plan.stride + 1;
    plan.length = options.window;
    if (options.windows > 0) plan.count = std::min<std::int64_t>(plan.count, options.windows);
  }
  const int limit = engine.model().config().max_position_embeddings;
  if (plan.length > limit) {
    throw Error(ErrorKind::kUsage, fmt::format("--window {} is larger than the {} positions of {}", plan.length, limit,
                                               engine.model().checkpoint().directory().string()));
  }
  return plan;
}

}  // namespace fairway::cli
