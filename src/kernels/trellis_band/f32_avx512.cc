// Bands with fp32 activations for AVX-512.
#include "kernels/trellis_band/f32.h"
#include "kernels/trellis_band/simd_avx512.h"

namespace fairway::kernels {

using Body = BandF32<avx512::Simd>;

constexpr BandKernel kBandF32SingleAvx512 = Body::kernel<1, 1>(&kBlockOpsAvx512);
constexpr BandKernel kBandF32QuadAvx512 = Body::kernel<4, 1>(&kBlockOpsAvx512);
// 256 inputs: a 128 KiB panel, within the 256 KiB and more of L2 that AVX2 machines have.
constexpr BandKernel kBandF32PanelAvx512 = Body::kernel<0, 16>(&kBlockOpsAvx512);

}  // namespace fairway::kernels
