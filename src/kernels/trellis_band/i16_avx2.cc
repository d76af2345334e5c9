// Bands of 3inst and mcg with integer activations for AVX2.
#define FAIRWAY_ISA avx2

#include "kernels/trellis_band/pair_words_avx2.h"

namespace fairway::kernels {

constexpr BandKernel kBandI16SingleAvx2 = PairKernels<avx2::PairWords>::direct<1>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16QuadAvx2 = PairKernels<avx2::PairWords>::direct<4>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16PanelAvx2 = PairKernels<avx2::PairWords>::panel<kHalfBandTiles>(&kBlockOpsAvx2);
constexpr BandKernel kBandI16WidePanelAvx2 = PairKernels<avx2::PairWords>::panel<kBandTiles>(&kBlockOpsAvx2);

}  // namespace fairway::kernels
