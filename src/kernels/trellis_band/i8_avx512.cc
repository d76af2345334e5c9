// Bands with int8 activations for AVX-512 with VBMI and VNNI.
#define FAIRWAY_ISA avx512

#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/mul1_codes.h"
#include "kernels/trellis_band/states_avx512.h"

namespace fairway::kernels {
namespace avx512 {

// Two bytes for every weight, whose sum is its code.
struct Pairs : ByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Pairs>;
  static constexpr float kCodeStep = kMul1Pairs.step;
  static constexpr float kCodeOffset = kMul1Pairs.offset;
  // A byte dot product takes five cycles and a line about three and a half, plus half a cycle per row.
  template <int kRows>
  static constexpr int kChains = kRows == 1   ? 4
                                 : kRows == 2 ? 2
                                              : 1;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      c[0] = mul1_averages(this->template states<kQ>());
    }
  };

  // Each byte twice.
  static void store_values(std::uint8_t* out, __m512i q) {
    const __m512i byte = _mm512_and_si512(q, _mm512_set1_epi32(0xFF));
    Simd::store_low16(out, _mm512_or_si512(byte, _mm512_slli_epi32(byte, 8)));
  }
};

// The byte sum itself, 16 bits.
struct Words : WordColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Words>;
  static constexpr int kLargestValue = 16383;
  static constexpr float kCodeStep = kMul1Words.step;
  static constexpr float kCodeOffset = kMul1Words.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      c[0] = mul1_sums<1>(this->template states<kQ>());
    }
  };
};

// One byte for every weight.
struct Bytes : OneByteColumns {
  static constexpr std::uint8_t kCodebooks = kMul1Only;
  using Row = I8Row<Bytes>;
  static constexpr float kCodeStep = kMul1Bytes.step;
  static constexpr float kCodeOffset = kMul1Bytes.offset;

  template <int kBits>
  struct Codes : States<kBits> {
    // The code of a state is the upper byte of 64 times its byte sum.
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      c[0] = upper_bytes(mul1_sums<64>(this->template states<2 * kQ>()),
                         mul1_sums<64>(this->template states<2 * kQ + 1>()));
    }
  };
};

}  // namespace avx512

constexpr BandKernel kBandI8SingleAvx512 = BandI8Direct<avx512::Pairs>::kernel<1>(&kBlockOpsAvx512);
constexpr BandKernel kBandI8QuadAvx512 = BandI8Direct<avx512::Pairs>::kernel<4>(&kBlockOpsAvx512);
constexpr BandKernel kBandI8RuntimeAvx512 = BandI8Direct<avx512::Pairs>::kernel<4, true>(&kBlockOpsAvx512);
constexpr BandKernel kBandWordsPanelAvx512 = BandI8Panel<avx512::Words, kHalfBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandWordsWidePanelAvx512 = BandI8Panel<avx512::Words, kBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandBytesPanelAvx512 = BandI8Panel<avx512::Bytes, kHalfBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandBytesWidePanelAvx512 = BandI8Panel<avx512::Bytes, kBandTiles>::kernel(&kBlockOpsAvx512);

}  // namespace fairway::kernels
