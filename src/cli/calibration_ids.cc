// From options to the tokens that calibration runs on.
#include "cli/calibration_ids.h"

#include <algorithm>
#include <filesystem>

#include "cli/windows.h"
#include "formats/tokenizer.h"
#include "quantize/calibration_windows.h"

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
  return quantize::calibration_windows(
      read_tokens({source.text, source.ids, "--calibration", "--calibration-ids"}, tokenizer, config.vocab_size),
      std::min(source.window, config.max_position_embeddings), source.tokens,
      source.ids.empty() ? source.text : source.ids);
}

}  // namespace fairway::cli
