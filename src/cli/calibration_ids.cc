// Windows for calibration, spread over their source.
#include "cli/calibration_ids.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/windows.h"
#include "fairway/error.h"
#include "formats/tokenizer.h"

namespace fairway::cli {

std::string CalibrationSource::name() const {
  return std::filesystem::path(ids.empty() ? text : ids).filename().string();
}

void add_calibration_options(CLI::App& command, CalibrationSource& source) {
  auto* const text =
      command.add_option("--calibration", source.text, "Text of the kind that the model is for")->type_name("FILE");
  command.add_option("--calibration-ids", source.ids, "Instead: JSON array of token ids")
      ->type_name("FILE")
      ->excludes(text);
  command.add_option("--calibration-tokens", source.tokens, "Tokens at most, in windows spread over the text")
      ->check(number_in(1, kNoLimit))
      ->capture_default_str();
  command.add_option("--calibration-window", source.window, "Tokens of a window")
      ->check(number_in(1, kNoLimit))
      ->capture_default_str();
}

std::vector<int> calibration_ids(const CalibrationSource& source, const std::string& model_dir,
                                 const formats::ModelConfig& config) {
  const formats::Tokenizer tokenizer = formats::Tokenizer::load(model_dir);
  std::vector<int> all =
      read_tokens({source.text, source.ids, "--calibration", "--calibration-ids"}, tokenizer, config.vocab_size);
  if (all.empty()) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: no tokens to calibrate with", source.ids.empty() ? source.text : source.ids));
  }
  const std::size_t window = static_cast<std::size_t>(std::min(source.window, config.max_position_embeddings));
  const std::size_t there = std::max<std::size_t>(1, all.size() / window);
  const std::size_t wanted = std::max<std::size_t>(1, static_cast<std::size_t>(source.tokens) / window);
  if (there <= wanted) return all;
  std::vector<int> chosen;
  for (std::size_t i = 0; i < wanted; ++i) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(i * there / wanted * window);
    chosen.insert(chosen.end(), begin, begin + static_cast<std::ptrdiff_t>(window));
  }
  return chosen;
}

}  // namespace fairway::cli
