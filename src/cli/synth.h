// Synthetic EXL3 checkpoints: which tensors are written, with which random content, into which files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "codec/trellis.h"
#include "formats/config.h"
#include "formats/safetensors_writer.h"
#include "kernels/common/registry.h"

namespace fairway::cli {

struct SynthOptions {
  std::string config, bits, out, codebook = "mul1";
  std::string device = "cpu";  // that makes the random numbers: cpu, cuda or cuda:N
  int layers = 0;              // 0: as in the config
  int head_bits = 6;
  int attention_bits = 0;  // 0: the rounded mean of the tuples
  std::uint64_t seed = 1;
  bool force = false;
};

enum class Fill {
  kWords,  // every 16-bit word random: all trellis states are legal
  kSigns,  // +-value as F16, signs random
  kOnes,   // 1 as BF16 or F16
  kZeros,
  kUniform,  // BF16 or F16, uniform with standard deviation `value`
  kFlag,     // the codebook's multiplier as I32
};

struct SynthTensor {
  formats::TensorSpec spec;
  Fill fill;
  float value = 0;         // meaning by fill
  std::uint32_t flag = 0;  // of kFlag
  std::int64_t live = -1;  // kSigns: entries from here on are 0 (padded outputs); -1: all are live
  std::int64_t bytes() const;
};

// "3" | "6,2,3" | "6,2,3;6,3,4;2,2,2" -> one tuple per expert in turn. Error(kUsage) naming --bits.
std::vector<kernels::BitTuple> parse_bit_tuples(const std::string& text);

// "mul1", "mcg" or "3inst".
codec::Codebook codebook_named(const std::string& name);

// Every tensor of the checkpoint, in file order.
std::vector<SynthTensor> plan_tensors(const formats::ModelConfig& config, const SynthOptions& options,
                                      const std::vector<kernels::BitTuple>& tuples);

// Writes the tensors to model.safetensors, or to shards of at most about 4 GB with an index. With a CUDA device that
// makes the random numbers; the bytes are the same.
void write_tensors(const std::vector<SynthTensor>& tensors, std::uint64_t seed, const std::filesystem::path& out,
                   std::optional<int> device);

// The config with its layer count changed and the quantization described. Error(kBadInput) names `file`.
nlohmann::ordered_json synth_config(const std::string& text, const std::string& file, const SynthOptions& options,
                                    double mean_bits);

std::vector<formats::TensorSpec> specs_of(const std::vector<SynthTensor>& tensors);

// tokenizer.json with one token per byte and placeholders "[256]", "[257]", ... up to vocab_size, without merges.
std::string byte_tokenizer_json(int vocab_size);

}  // namespace fairway::cli
