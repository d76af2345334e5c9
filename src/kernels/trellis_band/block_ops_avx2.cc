// Block operations (Hadamard, scales, SwiGLU) for AVX2.
#include "kernels/trellis_band/block_ops.h"
#include "kernels/trellis_band/simd_avx2.h"

namespace fairway::kernels {

constexpr BlockOps kBlockOpsAvx2 = BlockBodies<avx2::Simd>::table();

}  // namespace fairway::kernels
