// Kernels of the pair codebooks, 3inst and mcg: code classes exist for each of the two, and a kernel asks the band
// which one it is written in.
#pragma once

#include "codec/trellis.h"
#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"

namespace fairway::kernels {

// Class<codebook> is a code class of i8.h, in the namespace of its instruction set.
template <template <codec::Codebook> class Class>
struct PairKernels {
  using Mcg = Class<codec::Codebook::kMcg>;
  using ThreeInst = Class<codec::Codebook::k3inst>;
  using Bytes = const std::uint8_t*;

  template <int kShare>
  static void dot_direct(const Band& band, Bytes rows, std::int64_t row_stride, int m, float* y,
                         std::uint8_t* scratch) {
    if (band.codebook == codec::Codebook::kMcg) {
      BandI8Direct<Mcg>::template dot_direct<kShare>(band, rows, row_stride, m, y, scratch);
    } else {
      BandI8Direct<ThreeInst>::template dot_direct<kShare>(band, rows, row_stride, m, y, scratch);
    }
  }

  template <int kSliceTiles>
  static void dot_panel(const Band& band, Bytes rows, std::int64_t row_stride, int m, float* y, std::uint8_t* scratch) {
    if (band.codebook == codec::Codebook::kMcg) {
      BandI8Panel<Mcg, kSliceTiles>::dot_panel(band, rows, row_stride, m, y, scratch);
    } else {
      BandI8Panel<ThreeInst, kSliceTiles>::dot_panel(band, rows, row_stride, m, y, scratch);
    }
  }

  template <int kShare>
  static constexpr BandKernel direct(const BlockOps* ops) {
    BandKernel kernel = BandI8Direct<Mcg>::template kernel<kShare>(ops);
    kernel.dot = dot_direct<kShare>;
    return kernel;
  }
  template <int kSliceTiles>
  static constexpr BandKernel panel(const BlockOps* ops) {
    BandKernel kernel = BandI8Panel<Mcg, kSliceTiles>::kernel(ops);
    kernel.dot = dot_panel<kSliceTiles>;
    return kernel;
  }
};

}  // namespace fairway::kernels
