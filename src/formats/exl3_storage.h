// How EXL3 writers store things: the tensors of a linear, and the index of them in quantization_config.json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "codec/trellis.h"
#include "formats/safetensors_writer.h"

namespace fairway::formats {

// Tensors of a trellis-coded linear of padded sizes, in file order: trellis [in/16, out/16, 16 bits] I16, suh [in] F16,
// svh [out] F16, and the codebook's flag [] I32 unless it is 3inst, which has none.
std::vector<TensorSpec> exl3_tensors(const std::string& prefix, std::int64_t in, std::int64_t out, int bits,
                                     codec::Codebook codebook);

const char* codebook_flag(codec::Codebook codebook);          // "mcg", "mul1"; null for 3inst
std::uint32_t codebook_multiplier(codec::Codebook codebook);  // what the flag holds; 0 for 3inst
const char* torch_type_name(TensorType type);                 // "torch.bfloat16"
std::int64_t tensor_bytes(const TensorSpec& spec);            // of a shape that does not overflow
std::string module_of(const std::string& tensor);             // "a.b" of "a.b.weight"; "" without a dot

// "tensor_storage": for every module, in the order of first appearance, its tensors, and for a trellis its width and
// the codebook's multiplier.
nlohmann::ordered_json tensor_storage(const std::vector<TensorSpec>& tensors);

}  // namespace fairway::formats
