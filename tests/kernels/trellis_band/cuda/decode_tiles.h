// The tile decoder of the CUDA kernels, alone.
#pragma once

namespace fairway::kernels::cuda::check {

// words [tiles][32 * bits] bytes, out [tiles][256] half bits in stream order, both on the current device. Queued on the
// default stream.
void launch_decode_tiles(int bits, int codebook, const unsigned char* words, int tiles, unsigned short* out);

}  // namespace fairway::kernels::cuda::check
