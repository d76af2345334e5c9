// The tokens that eval and compare measure: a stream out of a text or an array of ids, and its windows.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/options.h"
#include "engine/engine.h"

namespace fairway::cli {

struct WindowOptions {
  std::string text, ids;  // files; exactly one of them
  int window = 1024, stride = 0, windows = 0;

  const std::string& source() const { return text.empty() ? ids : text; }
};

// Window i is ids [stride * i, stride * i + length]; all but its first token are predicted.
struct WindowPlan {
  std::int64_t count;
  std::int64_t length;  // predicted tokens of each
  std::int64_t stride;

  std::span<const int> window(std::span<const int> ids, std::int64_t i) const {
    return ids.subspan(static_cast<std::size_t>(i * stride), static_cast<std::size_t>(length) + 1);
  }
  // The last so many predictions of window i count; the others did in windows before it.
  std::int64_t counted(std::int64_t i) const { return i == 0 || stride > length ? length : stride; }
};

// --text, --ids, --window, --stride, --windows.
void add_window_options(CLI::App& command, WindowOptions& options);

// Error(kUsage) unless there is one source of tokens and no token is left out between windows.
void check_window_options(const WindowOptions& options, const char* command);

// A text, or a JSON file of ids if `ids` is not empty, and the names of the options for messages.
struct TokenSource {
  std::string text, ids;
  const char* text_flag;
  const char* ids_flag;
};
// Error(kBadInput) names the file.
std::vector<int> read_tokens(const TokenSource& source, const formats::Tokenizer& tokenizer, int vocab_size);

// The engine's tokens of the text, or the ids of the file, each below its vocabulary size.
std::vector<int> token_stream(const WindowOptions& options, const engine::Engine& engine);

// Error(kBadInput) for fewer than 2 tokens, Error(kUsage) for windows that the engine's model has no room for.
WindowPlan plan_windows(const WindowOptions& options, std::int64_t tokens, const engine::Engine& engine);

}  // namespace fairway::cli
