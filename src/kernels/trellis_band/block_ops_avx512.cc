// Block operations (Hadamard, scales, SwiGLU) for AVX-512.
#include "kernels/trellis_band/block_ops.h"
#include "kernels/trellis_band/simd_avx512.h"

namespace fairway::kernels {

constexpr BlockOps kBlockOpsAvx512 = BlockBodies<avx512::Simd>::table();

}  // namespace fairway::kernels
