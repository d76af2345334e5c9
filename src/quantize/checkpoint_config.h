// config.json of the model that is quantized, and what becomes of it.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "codec/trellis.h"
#include "formats/config.h"

namespace fairway::quantize {

// What the finished checkpoint says about itself.
struct CheckpointFacts {
  double bits = 0;    // average over the quantized matrices without the head
  int head_bits = 6;  // 16: not quantized
  int calibration_rows = 0, calibration_cols = 0;
  std::string out_scales = "always";  // "always", "never", "auto"
  codec::Codebook codebook = codec::Codebook::kMul1;
  std::string version;                                                // of the program: "0.1.0"
  std::string revision;                                               // of its sources, for the manifest
  nlohmann::ordered_json options = nlohmann::ordered_json::object();  // for the manifest, as given
};

struct SourceConfig {
  nlohmann::ordered_json document = nlohmann::ordered_json::object();  // as in the file, keys in its order
  formats::ModelConfig model;
};

// DIR/config.json of an unquantized or fp8 model. Error(kUnsupported) for one that is EXL3 already and for what
// parse_model_config refuses.
SourceConfig read_source_config(const std::filesystem::path& model_dir);

// The object of config.json and, with tensor_storage behind it, of quantization_config.json.
nlohmann::ordered_json quantization_config(const SourceConfig& source, const CheckpointFacts& facts);

// The source's config.json with that object in it, as text. A Glm4MoeLiteForCausalLM becomes the DeepseekV3ForCausalLM
// that computes the same: exllamav3 1.4.1 knows no other name for it.
std::string config_text(const SourceConfig& source, const nlohmann::ordered_json& quantization);

}  // namespace fairway::quantize
