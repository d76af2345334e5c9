// The 16-bit codes of mul1 (mul1_codes.h) for 256-bit code. The including file defines FAIRWAY_ISA before.
#pragma once

#include "kernels/trellis_band/mul1_codes.h"
#include "kernels/trellis_band/states_avx2.h"

namespace fairway::kernels::FAIRWAY_ISA {

// The byte sum itself.
struct Words : WordColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Words>;
  static constexpr int kLargestValue = 16383;
  static constexpr float kCodeStep = kMul1Words.step;
  static constexpr float kCodeOffset = kMul1Words.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m256i (&c)[2]) const {
      this->template states<kQ>(c);
      for (__m256i& v : c) v = mul1_sums<1>(v);
    }
  };
};

}  // namespace fairway::kernels::FAIRWAY_ISA
