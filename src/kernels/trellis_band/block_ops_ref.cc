// Block operations (Hadamard, scales, SwiGLU) for the baseline CPU.
#include "kernels/trellis_band/block_ops.h"
#include "kernels/trellis_band/simd_scalar.h"

namespace fairway::kernels {

constexpr BlockOps kBlockOpsRef = BlockBodies<scalar::Simd>::table();

}  // namespace fairway::kernels
