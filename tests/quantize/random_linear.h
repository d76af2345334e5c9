// Random coded matrices for tests of what is stored.
#pragma once

#include <random>
#include <string>

#include "codec/packing.h"
#include "quantize/quantized_linear.h"

namespace fairway::test {

// Every trellis word is legal; scales are +-1/32..+-1/16.
inline quantize::QuantizedLinear random_linear(const std::string& prefix, int in, int out, int bits, std::uint32_t seed,
                                               codec::Codebook codebook = codec::Codebook::kMul1) {
  std::mt19937 random(seed);
  quantize::QuantizedLinear linear{.prefix = prefix,
                                   .in = in,
                                   .out = out,
                                   .bits = bits,
                                   .codebook = codebook,
                                   .trellis = {},
                                   .suh = {},
                                   .svh = {},
                                   .bias = {}};
  linear.trellis.resize(static_cast<std::size_t>(in / 16) * static_cast<std::size_t>(out / 16) *
                        static_cast<std::size_t>(codec::tile_bytes(bits)));
  for (auto& byte : linear.trellis) byte = static_cast<std::uint8_t>(random());
  const auto scale = [&] { return static_cast<std::uint16_t>((random() & 0x83FFu) | 0x2800u); };
  for (int i = 0; i < in; ++i) linear.suh.push_back(scale());
  for (int i = 0; i < out; ++i) linear.svh.push_back(scale());
  return linear;
}

}  // namespace fairway::test
