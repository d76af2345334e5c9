// A whole small job without a quantizer: a random source model and a random matrix for each of its linears.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "codec/packing.h"
#include "common/folder_contents.h"
#include "common/tiny_checkpoint.h"
#include "formats/model_layout.h"
#include "quantize/assemble.h"
#include "quantize/random_linear.h"

namespace fairway::test {

// Folders under `dir`: source, out.partial (the store's), and out, which assemble() makes.
struct TinyJob {
  std::filesystem::path dir, source, out;
  TinySpec spec;
  nlohmann::ordered_json fingerprint = {{"bits", 3}};
  quantize::CheckpointFacts facts;
  std::vector<std::string> prefixes;
  bool head = true;  // whether lm_head is quantized

  explicit TinyJob(const std::filesystem::path& folder, TinySpec tiny = {}) : dir(folder), spec(std::move(tiny)) {
    source = dir / "source";
    out = dir / "out";
    spec.experts = 2;
    spec.top_k = 1;
    spec.max_positions = 64;
    write_tiny_checkpoint(source, spec, TinyForm::kDequantizedF32);
    facts = {.bits = 3.1416,
             .head_bits = 6,
             .calibration_rows = 16,
             .calibration_cols = 128,
             .out_scales = "always",
             .codebook = codec::Codebook::kMul1,
             .version = "1.2.3",
             .revision = "abc",
             .options = {{"bits", 3}, {"seed", 1}}};
  }

  int bits_of(const formats::LinearSpec& linear) const {
    if (linear.role == formats::LinearRole::kHead) return 6;
    if (linear.role != formats::LinearRole::kExpert) return 4;
    return linear.prefix.ends_with("down_proj") ? 3 : 2;  // one tuple for all experts
  }

  // Puts every matrix that is not there yet; `backwards` in the other order, which must not change the result.
  void fill(quantize::PartStore& parts, bool backwards = false) {
    const formats::ModelConfig config = quantize::read_source_config(source).model;
    std::vector<quantize::QuantizedLinear> all;
    for (const formats::LinearSpec& linear : formats::expected_linears(config)) {
      if (linear.dense_only || (linear.role == formats::LinearRole::kHead && !head)) continue;
      all.push_back(random_linear(linear.prefix, codec::padded(linear.in), codec::padded(linear.out), bits_of(linear),
                                  static_cast<std::uint32_t>(all.size()), facts.codebook));
      if (linear.bias) all.back().bias.assign(all.back().svh.size(), 0x3800);
    }
    prefixes.clear();
    for (const auto& linear : all) prefixes.push_back(linear.prefix);
    if (backwards) std::reverse(all.begin(), all.end());
    for (const auto& linear : all) {
      if (!parts.has(linear.prefix)) parts.put(linear, {{"i", 1}});
    }
  }

  quantize::AssemblyReport assemble(bool force = false) {
    quantize::PartStore parts(dir / "out.partial", fingerprint, false);
    fill(parts);
    return quantize::assemble(source, parts, prefixes, facts, out, force, {}, nullptr);
  }
};

}  // namespace fairway::test
