// Bands with int8 activations for AVX-512 with VBMI and VNNI.
#include "kernels/trellis_band/i8_direct.h"
#include "kernels/trellis_band/i8_panel.h"
#include "kernels/trellis_band/simd_avx512.h"

namespace fairway::kernels {
namespace avx512 {

// Up to this width the windows of rows 2q, 2q + 1 and 2q + 8, 2q + 9 of a column lane lie within one qword.
constexpr int kSharedPermuteBits = 6;

// First of the eight stream bytes of a qword relative to the column lane's first one, without the 8j symbols below.
constexpr int first_byte(int bits, int t) {
  if (bits <= kSharedPermuteBits) return -2;
  const int bit = (2 * t + 1) * bits - 16;
  return bit >= 0 ? bit / 8 : -((-bit + 7) / 8);
}

// How the windows of one tile are cut. A qword lane is a column lane c of the tile (columns c and c + 8). For row pair
// q = j + 4 t (rows 2q, 2q + 1) the four windows of a lane, in 16-bit order, are: column c rows 2q, 2q + 1, column c +
// 8 rows 2q, 2q + 1; they end with symbols 8j + 2t + {1, 2, 5, 6} of the lane (exclusive). A byte permute brings eight
// consecutive stream bytes into each qword, first one on top, and VPMULTISHIFTQB cuts the windows as pairs of bytes.
// Up to 6 bits the windows of both t fit one such qword; for 7 and 8 bits each t has its own.
template <int kBits>
struct WindowTables {
  static constexpr bool kShared = kBits <= kSharedPermuteBits;
  static constexpr int kPermutes = kShared ? 4 : 8;
  static constexpr int kTileBytes = 32 * kBits;
  static constexpr int kRegisters = (kTileBytes + 63) / 64;

  alignas(64) std::uint8_t source[kPermutes][64];  // tile byte of each destination byte, modulo 64
  alignas(64) std::uint8_t control[2][64];         // per t
  std::uint64_t mask[kPermutes][4];                // destination bytes that come from each 64-byte part of the tile

  constexpr WindowTables() : source{}, control{}, mask{} {
    for (int permute = 0; permute < kPermutes; ++permute) {
      const int j = permute % 4;
      const int t = permute / 4;
      for (int lane = 0; lane < 8; ++lane) {
        for (int i = 0; i < 8; ++i) {
          const int stream = (4 * kBits * lane + kBits * j + first_byte(kBits, t) + i + kTileBytes) % kTileBytes;
          const int offset = stream / 4 * 4 + 3 - stream % 4;  // stream bytes are stored reversed inside each word
          const int destination = 8 * lane + 7 - i;
          source[permute][destination] = static_cast<std::uint8_t>(offset % 64);
          mask[permute][offset / 64] |= std::uint64_t{1} << destination;
        }
      }
    }
    for (int t = 0; t < 2; ++t) {
      for (int window = 0; window < 4; ++window) {
        const int symbol = 2 * t + 4 * (window / 2) + window % 2;
        const int end = (symbol + 1) * kBits - 8 * first_byte(kBits, t);
        if (end < 16 || end > 64) throw "a window does not fit its qword";
        for (int lane = 0; lane < 8; ++lane) {
          control[t][8 * lane + 2 * window] = static_cast<std::uint8_t>(64 - end);
          control[t][8 * lane + 2 * window + 1] = static_cast<std::uint8_t>((64 - end + 8) % 64);
        }
      }
    }
  }
};

template <int kBits>
inline constexpr WindowTables<kBits> kWindowTables{};

// States of a tile, two 16-bit states per lane; lane 2c holds column c, lane 2c + 1 column c + 8.
template <int kBits>
struct States {
  using Tables = WindowTables<kBits>;
  static constexpr const Tables& kTables = kWindowTables<kBits>;
  __m512i part[Tables::kRegisters];

  void load(const std::uint8_t* tile) {
#pragma GCC unroll 4
    for (int i = 0; i < Tables::kRegisters; ++i) {
      const bool whole = 64 * (i + 1) <= Tables::kTileBytes;  // odd widths end with half a register
      part[i] = whole ? _mm512_loadu_si512(tile + 64 * i)
                      : _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * i)));
    }
  }

  template <int kPermute>
  __m512i lane_bytes() const {
    const __m512i source = _mm512_load_si512(kTables.source[kPermute]);
    __m512i v = _mm512_permutexvar_epi8(source, part[0]);
    if constexpr (Tables::kRegisters > 1)
      v = _mm512_mask_permutexvar_epi8(v, kTables.mask[kPermute][1], source, part[1]);
    if constexpr (Tables::kRegisters > 2)
      v = _mm512_mask_permutexvar_epi8(v, kTables.mask[kPermute][2], source, part[2]);
    if constexpr (Tables::kRegisters > 3)
      v = _mm512_mask_permutexvar_epi8(v, kTables.mask[kPermute][3], source, part[3]);
    return v;
  }

  template <int kQ>
  __m512i states() const {
    constexpr int kPermute = Tables::kShared ? kQ % 4 : kQ;  // equal permutes of t = 0 and 1 are merged by the compiler
    return _mm512_multishift_epi64_epi8(_mm512_load_si512(kTables.control[kQ / 4]), lane_bytes<kPermute>());
  }
};

// The four bytes of s * multiplier mod 2^32, s < 2^16, as two 16-bit halves.
inline __m512i product_low(__m512i states) {
  return _mm512_mullo_epi16(states, _mm512_set1_epi16(static_cast<short>(codec::kMul1Multiplier & 0xFFFF)));
}
inline __m512i product_high(__m512i states) {
  const __m512i low_factor = _mm512_set1_epi16(static_cast<short>(codec::kMul1Multiplier & 0xFFFF));
  const __m512i high_factor = _mm512_set1_epi16(static_cast<short>(codec::kMul1Multiplier >> 16));
  return _mm512_add_epi16(_mm512_mulhi_epu16(states, low_factor), _mm512_mullo_epi16(states, high_factor));
}

struct I8 {
  using Simd = avx512::Simd;
  static constexpr int kVectorsPerTile = 1;
  // A byte dot product takes five cycles and a line about three and a half, plus half a cycle per row.
  template <int kRows>
  static constexpr int kChains = kRows == 1   ? 4
                                 : kRows == 2 ? 2
                                              : 1;

  // c: two bytes for every weight, whose sum is its code.
  template <int kBits>
  struct Codes : States<kBits> {
    template <int kQ>
    void line(__m512i (&c)[1]) const {
      const __m512i s = this->template states<kQ>();
      c[0] = _mm512_avg_epu8(product_low(s), product_high(s));
    }
  };

  static Simd::Sum dot(Simd::Sum sum, __m512i c, __m512i q) {
    return Simd::sum_of(_mm512_dpbusd_epi32(Simd::int_of(sum), c, q));
  }
  // The broadcast belongs to the load. Written out because GCC takes words that several instructions read into general
  // registers, from where every broadcast costs a slot on one of the two vector ports.
  static Simd::Sum dot_at(Simd::Sum sum, __m512i c, const std::uint8_t* q) {
    __m512i total = Simd::int_of(sum);
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(total) : "v"(c), "m"(*reinterpret_cast<const std::int32_t*>(q)));
    return Simd::sum_of(total);
  }

  // Each byte twice.
  static void store_values(std::uint8_t* out, __m512i q) {
    const __m512i byte = _mm512_and_si512(q, _mm512_set1_epi32(0xFF));
    Simd::store_low16(out, _mm512_or_si512(byte, _mm512_slli_epi32(byte, 8)));
  }
  static void natural_order(__m512 (&v)[1]) {
    v[0] = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), v[0]);
  }
};

}  // namespace avx512

constexpr BandKernel kBandI8SingleAvx512 = BandI8Direct<avx512::I8>::kernel<1>(&kBlockOpsAvx512);
constexpr BandKernel kBandI8QuadAvx512 = BandI8Direct<avx512::I8>::kernel<4>(&kBlockOpsAvx512);
constexpr BandKernel kBandI8PanelAvx512 = BandI8Panel<avx512::I8, kHalfBandTiles>::kernel(&kBlockOpsAvx512);
constexpr BandKernel kBandI8WidePanelAvx512 = BandI8Panel<avx512::I8, kBandTiles>::kernel(&kBlockOpsAvx512);

}  // namespace fairway::kernels
