// Which tensors a finished checkpoint has and where each comes from: a finished matrix or the source model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/safetensors_writer.h"
#include "quantize/part_store.h"

namespace fairway::quantize {

// Consecutive tensors of the checkpoint with one origin.
struct AssemblyItem {
  std::vector<formats::TensorSpec> tensors;  // of a matrix: trellis, suh, svh, flag, bias; else one
  std::string origin;                        // prefix of a finished matrix, or name of a source tensor
  bool is_part = false;
};

struct AssemblyPlan {
  std::vector<AssemblyItem> items;    // in file order: embedding, layers (vectors, then linears), final norm, head
  std::vector<std::string> left_out;  // source tensors that the architecture does not have, sorted
  std::int64_t left_out_bytes = 0;
  std::int64_t bytes = 0;  // of all tensors

  std::vector<formats::TensorSpec> tensors() const;
};

// `prefixes` are the linears to be taken from `parts`; all others stay plain. Types: embedding and norms keep BF16 and
// F16, wider ones become F16; plain linears, biases and the selection bias become F16; a plain head gets rows of zeros
// up to a multiple of 128. Error(kUsage) for a prefix that is no linear of the model, may not be quantized, is not
// finished or has another size, or a codebook other than `codebook`; Error(kBadInput) for what the source lacks.
AssemblyPlan plan_assembly(const formats::ModelConfig& config, const formats::Checkpoint& source,
                           const PartStore& parts, const std::vector<std::string>& prefixes, codec::Codebook codebook);

}  // namespace fairway::quantize
