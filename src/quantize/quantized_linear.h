// One linear layer as it will be stored: EXL3 tensors in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "codec/trellis.h"

namespace fairway::quantize {

// W = diag(suh) H inner H diag(svh), kernels/common/matrix.h; `in` and `out` are padded to multiples of 128.
struct QuantizedLinear {
  std::string prefix;  // module key: "model.layers.3.self_attn.o_proj"
  int in = 0, out = 0, bits = 0;
  codec::Codebook codebook = codec::Codebook::kMul1;
  std::vector<std::uint8_t> trellis;    // [in/16][out/16][32 * bits], as on disk
  std::vector<std::uint16_t> suh, svh;  // [in], [out], half bits
  std::vector<std::uint16_t> bias;      // [out] half bits, or empty
};

}  // namespace fairway::quantize
