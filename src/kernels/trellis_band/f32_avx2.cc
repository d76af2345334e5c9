// Bands with fp32 activations for AVX2.
#include "kernels/trellis_band/f32.h"
#include "kernels/trellis_band/simd_avx2.h"

namespace fairway::kernels {

using Body = BandF32<avx2::Simd>;

constexpr BandKernel kBandF32SingleAvx2 = Body::kernel<1, 1>(&kBlockOpsAvx2);
constexpr BandKernel kBandF32QuadAvx2 = Body::kernel<4, 1>(&kBlockOpsAvx2);
// 256 inputs: a 128 KiB panel, within the 256 KiB and more of L2 that AVX2 machines have.
constexpr BandKernel kBandF32PanelAvx2 = Body::kernel<0, 16>(&kBlockOpsAvx2);

}  // namespace fairway::kernels
