// The tensors, configuration and tokenizer of a synthetic checkpoint.
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "cli/cli.h"
#include "cli/synth.h"
#include "codec/packing.h"
#include "formats/byte_symbols.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"
#include "formats/model_layout.h"

namespace fairway::cli {
namespace {

using formats::LinearRole;
using formats::LinearSpec;
using formats::TensorType;

using codec::padded;

[[noreturn]] void bad_bits(const std::string& text, const std::string& entry) {
  throw Error(ErrorKind::kUsage,
              fmt::format("--bits {}: '{}' is not a width from 1 to 8 or three of them as gate,up,down", text, entry));
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::uint8_t parse_width(const std::string& all, const std::string& entry, const std::string& text) {
  int width = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), width);
  if (error != std::errc() || end != text.data() + text.size() || width < 1 || width > 8) bad_bits(all, entry);
  return static_cast<std::uint8_t>(width);
}

// Emits the tensors of linears and vectors.
class Planner {
 public:
  Planner(const SynthOptions& options, const std::vector<kernels::BitTuple>& tuples)
      : options_(options),
        tuples_(tuples),
        codebook_(codebook_named(options.codebook)),
        rms_(codec::codebook_rms(codebook_)) {
    double sum = 0;
    for (const auto& tuple : tuples) sum += tuple.gate + tuple.up + tuple.down;
    attention_bits_ = options.attention_bits > 0
                          ? options.attention_bits
                          : static_cast<int>(std::lround(sum / (3.0 * static_cast<double>(tuples.size()))));
  }

  void add_linear(const LinearSpec& spec) {
    if (spec.dense_only) {
      add_dense(spec);
    } else {
      add_trellis(spec, bits_of(spec));
    }
    if (spec.bias) out_.push_back({{spec.prefix + ".bias", TensorType::kF16, {padded(spec.out)}}, Fill::kZeros});
  }

  void add_vector(const formats::VectorSpec& spec) {
    const bool bias = spec.name.ends_with("e_score_correction_bias");
    out_.push_back(
        {{spec.name, bias ? TensorType::kF16 : TensorType::kBf16, {spec.count}}, bias ? Fill::kZeros : Fill::kOnes});
  }

  std::vector<SynthTensor> take() { return std::move(out_); }

 private:
  // Unit-variance inputs give unit-variance outputs, which keeps activations finite at any depth.
  void add_dense(const LinearSpec& spec) {
    const bool embedding = spec.role == LinearRole::kEmbedding;
    const float deviation = embedding ? 1.0f : 1.0f / std::sqrt(static_cast<float>(spec.in));
    out_.push_back({{spec.prefix + ".weight", embedding ? TensorType::kBf16 : TensorType::kF16, {spec.out, spec.in}},
                    Fill::kUniform,
                    deviation});
  }

  void add_trellis(const LinearSpec& spec, int bits) {
    const std::int64_t in = padded(spec.in), out = padded(spec.out);
    const float scale = 1.0f / (std::sqrt(static_cast<float>(spec.in)) * rms_);
    std::vector<formats::TensorSpec> tensors = formats::exl3_tensors(spec.prefix, in, out, bits, codebook_);
    out_.push_back({std::move(tensors[0]), Fill::kWords});
    out_.push_back({std::move(tensors[1]), Fill::kSigns, scale});
    out_.push_back({std::move(tensors[2]), Fill::kSigns, 1.0f, 0, spec.out});
    if (tensors.size() > 3)
      out_.push_back({std::move(tensors[3]), Fill::kFlag, 0, formats::codebook_multiplier(codebook_)});
  }

  int bits_of(const LinearSpec& spec) const {
    if (spec.role == LinearRole::kHead) return options_.head_bits;
    if (spec.role == LinearRole::kAttention) return attention_bits_;
    const std::size_t expert =
        spec.expert < 0 ? 0 : static_cast<std::size_t>(spec.expert);  // shared and dense: first tuple
    const kernels::BitTuple& tuple = tuples_[expert % tuples_.size()];
    if (spec.prefix.ends_with("gate_proj")) return tuple.gate;
    return spec.prefix.ends_with("up_proj") ? tuple.up : tuple.down;
  }

  const SynthOptions& options_;
  const std::vector<kernels::BitTuple>& tuples_;
  codec::Codebook codebook_;
  float rms_;
  int attention_bits_ = 0;
  std::vector<SynthTensor> out_;
};

// Lists with one entry per layer follow the layer count: cut, or continued with their last entry.
void resize_layer_list(nlohmann::ordered_json& config, const char* key, std::size_t layers) {
  if (!config.contains(key) || !config[key].is_array() || config[key].empty()) return;
  auto& list = config[key];
  while (list.size() > layers) list.erase(list.size() - 1);
  while (list.size() < layers) list.push_back(nlohmann::ordered_json(list.back()));
}

}  // namespace

std::int64_t SynthTensor::bytes() const {
  return formats::tensor_bytes(spec);
}

std::vector<formats::TensorSpec> specs_of(const std::vector<SynthTensor>& tensors) {
  std::vector<formats::TensorSpec> specs;
  specs.reserve(tensors.size());
  for (const SynthTensor& tensor : tensors) specs.push_back(tensor.spec);
  return specs;
}

codec::Codebook codebook_named(const std::string& name) {
  return codec::find_codebook(name).value_or(codec::Codebook::kMul1);
}

std::vector<kernels::BitTuple> parse_bit_tuples(const std::string& text) {
  std::vector<kernels::BitTuple> tuples;
  for (const std::string& entry : split(text, ';')) {
    const std::vector<std::string> widths = split(entry, ',');
    if (widths.size() != 1 && widths.size() != 3) bad_bits(text, entry);
    const auto width = [&](std::size_t i) { return parse_width(text, entry, widths[widths.size() == 1 ? 0 : i]); };
    tuples.push_back({width(0), width(1), width(2)});
  }
  return tuples;
}

std::vector<SynthTensor> plan_tensors(const formats::ModelConfig& config, const SynthOptions& options,
                                      const std::vector<kernels::BitTuple>& tuples) {
  Planner planner(options, tuples);
  formats::visit_linears(config, [&](const LinearSpec& spec) {
    planner.add_linear(spec);
    return true;
  });
  for (const formats::VectorSpec& spec : formats::expected_vectors(config)) planner.add_vector(spec);
  return planner.take();
}

nlohmann::ordered_json synth_config(const std::string& text, const std::string& file, const SynthOptions& options,
                                    double mean_bits) {
  formats::parse_json(text, file);  // the checked reader; this second parse only keeps the order of the keys
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(text);
  if (!config.is_object()) throw Error(ErrorKind::kBadInput, fmt::format("{}: not a JSON object", file));
  if (options.layers > 0) {
    const std::size_t layers = static_cast<std::size_t>(options.layers);
    config["num_hidden_layers"] = options.layers;
    for (const char* key : {"mlp_layer_types", "layer_types"}) resize_layer_list(config, key, layers);
    if (config.contains("mlp_only_layers") && config["mlp_only_layers"].is_array()) {
      auto& list = config["mlp_only_layers"];
      const auto beyond = [&](const nlohmann::ordered_json& layer) {
        return layer.is_number() && layer >= options.layers;
      };
      list.erase(std::remove_if(list.begin(), list.end(), beyond), list.end());
    }
  }
  config["quantization_config"] = {{"quant_method", "exl3"},
                                   {"version", fmt::format("fairway-synth-{}", kVersion)},
                                   {"bits", std::round(mean_bits * 100) / 100},
                                   {"head_bits", options.head_bits},
                                   {"out_scales", "always"},
                                   {"codebook", options.codebook}};
  return config;
}

std::string byte_tokenizer_json(int vocab_size) {
  if (vocab_size < 256) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--config: vocab_size {} is below the 256 bytes that the tokenizer made for it "
                            "needs; put a tokenizer.json beside the config",
                            vocab_size));
  }
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
  auto& entries = vocab.get_ref<nlohmann::ordered_json::object_t&>();
  entries.reserve(static_cast<std::size_t>(vocab_size));  // appended without the search for an equal key
  for (int id = 0; id < vocab_size; ++id) {
    const char byte = static_cast<char>(id);
    entries.push_back({id < 256 ? formats::bytes_to_symbols({&byte, 1}) : fmt::format("[{}]", id), id});
  }
  const nlohmann::ordered_json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::ordered_json tokenizer = {{"version", "1.0"},
                                            {"truncation", nullptr},
                                            {"padding", nullptr},
                                            {"added_tokens", nlohmann::ordered_json::array()},
                                            {"normalizer", nullptr},
                                            {"pre_tokenizer", byte_level},
                                            {"post_processor", nullptr},
                                            {"decoder", byte_level},
                                            {"model",
                                             {{"type", "BPE"},
                                              {"dropout", nullptr},
                                              {"unk_token", nullptr},
                                              {"continuing_subword_prefix", nullptr},
                                              {"end_of_word_suffix", nullptr},
                                              {"fuse_unk", false},
                                              {"byte_fallback", false},
                                              {"ignore_merges", false},
                                              {"vocab", std::move(vocab)},
                                              {"merges", nlohmann::ordered_json::array()}}}};
  return tokenizer.dump() + "\n";
}

}  // namespace fairway::cli
