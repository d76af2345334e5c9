// The CUDA tile decoder gives exactly the format's values, for every width and codebook.
#include "kernels/trellis_band/cuda/decode_tiles.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "backend/cuda/check.cuh"
#include "codec/trellis.h"
#include "kernels/trellis_band/cuda/host_matrix.cuh"

namespace fairway::kernels::cuda::check {
namespace {

constexpr int kTiles = 64;

void check_decode(int bits, int codebook, const std::vector<unsigned>& words, const unsigned char* words_device,
                  unsigned short* out_device) {
  backend::check_cuda(cudaMemset(out_device, 0xA5, kTiles * 512), "poison");
  launch_decode_tiles(bits, codebook, words_device, kTiles, out_device);
  std::vector<unsigned short> out(kTiles * 256);
  backend::check_cuda(cudaMemcpy(out.data(), out_device, out.size() * 2, cudaMemcpyDeviceToHost), "decode_tiles");
  int wrong = 0, first = -1;
  for (int i = 0; i < kTiles * 256; ++i) {
    const int p = i % 256;
    const unsigned* tile = words.data() + i / 256 * 8 * bits;
    const unsigned state = codec::window_state(tile[codec::window_previous_word(p, bits)],
                                               tile[codec::window_last_word(p, bits)], codec::window_shift(p, bits));
    if (out[static_cast<std::size_t>(i)] == codec::codebook_half_bits(static_cast<codec::Codebook>(codebook), state)) {
      continue;
    }
    if (wrong++ == 0) first = p;
  }
  EXPECT_EQ(wrong, 0) << fmt::format("{} bits, codebook {}: the first is at position {}", bits, codebook, first);
}

TEST(GpuTrellisTiles, EveryWidthAndCodebookIsTheFormats) {
  for (int bits = 1; bits <= 8; ++bits) {
    Random random(100 + static_cast<std::uint64_t>(bits));
    std::vector<unsigned> words(static_cast<std::size_t>(kTiles * 8 * bits));
    for (unsigned& w : words) w = static_cast<unsigned>(random.next() >> 32);
    void *words_device = nullptr, *out_device = nullptr;
    backend::check_cuda(cudaMalloc(&words_device, words.size() * 4), "cudaMalloc");
    backend::check_cuda(cudaMalloc(&out_device, kTiles * 512), "cudaMalloc");
    backend::check_cuda(cudaMemcpy(words_device, words.data(), words.size() * 4, cudaMemcpyHostToDevice), "upload");
    for (int codebook = 0; codebook < 3; ++codebook) {
      check_decode(bits, codebook, words, static_cast<unsigned char*>(words_device),
                   static_cast<unsigned short*>(out_device));
    }
    cudaFree(words_device);
    cudaFree(out_device);
  }
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
