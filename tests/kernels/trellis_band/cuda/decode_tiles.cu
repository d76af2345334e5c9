// One warp a tile, once for every width.
#include "backend/cuda/check.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_band/cuda/decode_tiles.h"
#include "kernels/trellis_band/cuda/trellis_decode.cuh"

namespace fairway::kernels::cuda::check {
namespace {

// The eight values of every lane as halves, in stream order.
template <int kBits>
__global__ void decode_tiles(const unsigned char* words, int codebook, unsigned short* out) {
  wait_for_previous_kernel();
  const LaneStream<kBits> stream(static_cast<int>(threadIdx.x));
  u32 a[3], s[8];
  stream.load(words + blockIdx.x * 32 * kBits, a);
  windows<kBits>(a, s);
  for (int i = 0; i < 4; ++i) {
    const bool adds = codebook == static_cast<int>(codec::Codebook::k3inst);
    const u32 pair = codebook == static_cast<int>(codec::Codebook::kMul1)
                         ? mul1_pair(s[2 * i], s[2 * i + 1])
                         : sum_pair(s[2 * i], s[2 * i + 1], adds ? codec::k3instMultiplier : codec::kMcgMultiplier,
                                    adds ? codec::k3instAddend : 0);
    out[blockIdx.x * 256 + threadIdx.x * 8 + 2 * i] = static_cast<unsigned short>(pair & 0xFFFFu);
    out[blockIdx.x * 256 + threadIdx.x * 8 + 2 * i + 1] = static_cast<unsigned short>(pair >> 16);
  }
}

}  // namespace

void launch_decode_tiles(int bits, int codebook, const unsigned char* words, int tiles, unsigned short* out) {
  const dim3 blocks(static_cast<unsigned>(tiles));
  cudaError_t status = cudaErrorInvalidValue;
  switch (bits) {
#define FAIRWAY_CASE(bits)                                                            \
  case bits:                                                                          \
    status = launch(decode_tiles<bits>, {blocks, 32}, nullptr, words, codebook, out); \
    break;
    FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  }
  backend::check_cuda(status, "decode_tiles");
}

}  // namespace fairway::kernels::cuda::check
