// Reads config.json past the quantization that the source may have, and writes the new one.
#include "quantize/checkpoint_config.h"

#include <fmt/format.h>

#include <cmath>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/json.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"

namespace fairway::quantize {
namespace {

using nlohmann::ordered_json;

constexpr const char* kKey = "quantization_config";
constexpr std::size_t kMaxConfigBytes = 16u << 20;

}  // namespace

SourceConfig read_source_config(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "config.json";
  const std::string text = formats::read_text_file(path, kMaxConfigBytes);
  SourceConfig source;
  source.model = formats::parse_model_config(text, path.string());
  source.document = ordered_json::parse(text);  // checked above; this parse keeps the order of keys
  const auto quantization = source.document.find(kKey);
  if (quantization != source.document.end() && quantization->contains("quant_method") &&
      quantization->at("quant_method") == "exl3") {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{}: {}.quant_method is \"exl3\"; a model to be quantized is plain or fp8", path.string(), kKey));
  }
  return source;
}

ordered_json quantization_config(const SourceConfig& source, const CheckpointFacts& facts) {
  ordered_json config = {{"quant_method", "exl3"},
                         {"version", fmt::format("fairway-{}", facts.version)},
                         {"bits", std::round(facts.bits * 100) / 100},
                         {"head_bits", facts.head_bits},
                         {"calibration", {{"rows", facts.calibration_rows}, {"cols", facts.calibration_cols}}},
                         {"out_scales", facts.out_scales},
                         {"codebook", codec::codebook_name(facts.codebook)}};
  const auto original = source.document.find(kKey);
  if (original != source.document.end() && !original->is_null()) config["original_quantization_config"] = *original;
  return config;
}

std::string config_text(const SourceConfig& source, const ordered_json& quantization) {
  ordered_json config = source.document;
  config[kKey] = quantization;
  return formats::json_text(config);
}

}  // namespace fairway::quantize
