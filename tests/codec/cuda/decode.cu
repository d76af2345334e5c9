// One thread per weight, once with the width as a constant, as kernels have it.
#include <cuda_runtime.h>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/native.cuh"
#include "codec/cuda/decode.h"
#include "codec/trellis.h"
#include "fairway/error.h"

namespace fairway::test {
namespace {

__global__ void decode_codebook(codec::Codebook codebook, std::uint16_t* half_bits) {
  const unsigned state = blockIdx.x * blockDim.x + threadIdx.x;
  half_bits[state] = codec::codebook_half_bits(codebook, state);
}

template <int kBits>
__global__ void decode_tiles(codec::Codebook codebook, const std::uint32_t* words, std::uint16_t* states,
                             std::uint16_t* half_bits) {
  const int p = static_cast<int>(threadIdx.x);
  const std::uint32_t* tile = words + std::size_t{blockIdx.x} * (8 * kBits);
  const codec::u32 state = codec::window_state(tile[codec::window_previous_word(p, kBits)],
                                               tile[codec::window_last_word(p, kBits)], codec::window_shift(p, kBits));
  const std::size_t out = std::size_t{blockIdx.x} * codec::kTileWeights + threadIdx.x;
  states[out] = static_cast<std::uint16_t>(state);
  half_bits[out] = codec::codebook_half_bits(codebook, state);
}

}  // namespace

void launch_codebook(backend::CudaStream& stream, codec::Codebook codebook, std::uint16_t* half_bits) {
  const backend::DeviceScope scope(stream.device());
  decode_codebook<<<256, 256, 0, backend::native(stream)>>>(codebook, half_bits);
  backend::check_cuda_launch("decode_codebook");
}

void launch_decode(backend::CudaStream& stream, int bits, codec::Codebook codebook, const std::uint32_t* words,
                   int tiles, std::uint16_t* states, std::uint16_t* half_bits) {
  const backend::DeviceScope scope(stream.device());
  const auto blocks = static_cast<unsigned>(tiles);
  switch (bits) {
#define FAIRWAY_CASE(kBits)                                                                                \
  case kBits:                                                                                              \
    decode_tiles<kBits>                                                                                    \
        <<<blocks, codec::kTileWeights, 0, backend::native(stream)>>>(codebook, words, states, half_bits); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
    default:
      throw Error(ErrorKind::kUsage, "launch_decode: the width is none of bits.inc");
  }
  backend::check_cuda_launch("decode_tiles");
}

}  // namespace fairway::test
