// src/codec/trellis.h compiled for the device and run there.
#pragma once

#include <cstdint>

#include "backend/cuda/stream.h"
#include "codec/trellis.h"

namespace fairway::test {

// half_bits[s] = codebook_half_bits(codebook, s) for the 65,536 states s.
void launch_codebook(backend::CudaStream& stream, codec::Codebook codebook, std::uint16_t* half_bits);

// words [tiles][8 * bits] of 32 bits -> states [tiles][256] in stream order, and the half bits of their values.
void launch_decode(backend::CudaStream& stream, int bits, codec::Codebook codebook, const std::uint32_t* words,
                   int tiles, std::uint16_t* states, std::uint16_t* half_bits);

}  // namespace fairway::test
