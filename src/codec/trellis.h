// The trellis code of one weight: window extraction, the three codebooks, and the order of weights inside a tile.
//
// Device-neutral: included by CPU, CUDA and Metal code. No standard headers, no pointers in signatures, integer-only
// reconstruction through a defined half-precision bit pattern, so every backend compares with ==.
//
// A tile holds 16 input channels (rows r) by 16 output channels (columns c). Its 256 weights are coded by one ring of
// 256 * bits stream bits. State p is the 16 stream bits that end with symbol p; a codebook maps it to one half value.
#ifndef FAIRWAY_CODEC_TRELLIS_H_
#define FAIRWAY_CODEC_TRELLIS_H_

#include "codec/bits.inc"

#if defined(__CUDACC__)
#define FAIRWAY_HOST_DEVICE __host__ __device__
#else
#define FAIRWAY_HOST_DEVICE
#endif

namespace fairway {
namespace codec {

typedef unsigned int u32;    // 32 bits on every supported device
typedef unsigned short u16;  // 16 bits on every supported device

constexpr int kTileDim = 16;             // tile edge, weights
constexpr int kTileWeights = 256;        // weights per tile
constexpr int kStateBits = 16;           // trellis state width
constexpr int kHadamardDim = 128;        // block length of the Hadamard transform on both sides
constexpr int kWordsPerTilePerBit = 16;  // 16-bit storage words of one tile = 16 * bits

enum class Codebook : unsigned char { k3inst = 0, kMcg = 1, kMul1 = 2 };

// Multipliers and constants of the codebooks (EXL3 format; 3inst and its masks are QTIP's).
constexpr u32 k3instMultiplier = 89226354u;
constexpr u32 k3instAddend = 64248484u;
constexpr u32 kMcgMultiplier = 0xCBAC1FEDu;
constexpr u32 kMul1Multiplier = 0x83DCD12Du;
constexpr u32 kHalfPairMask = 0x8FFF8FFFu;    // in each half: sign bit and low twelve bits survive
constexpr u32 kHalfPairFlip = 0x3B603B60u;    // puts the exponent in 12..15
constexpr int kMul1ScaleNumerator = 1774;     // half 0x1EEE = 1774 * 2^-18
constexpr int kMul1BiasNumerator = -2721792;  // half 0xC931 = -10.3828125 = -2721792 * 2^-18
constexpr int kMul1FractionBits = 18;

// Stream position (0..255) of the weight at tile row r, column c. With p = p7..p0:
// c = (p2 p7 p6 p5), r = (p1 p4 p3 p0), most significant bit first.
FAIRWAY_HOST_DEVICE constexpr int tile_position(int r, int c) {
  return ((c >> 2 & 1) << 7) | ((c >> 1 & 1) << 6) | ((c & 1) << 5) | ((r >> 2 & 1) << 4) | ((r >> 1 & 1) << 3) |
         ((c >> 3 & 1) << 2) | ((r >> 3 & 1) << 1) | (r & 1);
}
FAIRWAY_HOST_DEVICE constexpr int tile_row(int p) {
  return ((p >> 1 & 1) << 3) | ((p >> 4 & 1) << 2) | ((p >> 3 & 1) << 1) | (p & 1);
}
FAIRWAY_HOST_DEVICE constexpr int tile_column(int p) {
  return ((p >> 2 & 1) << 3) | ((p >> 7 & 1) << 2) | ((p >> 6 & 1) << 1) | (p >> 5 & 1);
}

// Where state p lies in the tile, seen as 8 * bits little-endian 32-bit words: it is
// ((word[previous] : word[last]) >> shift) & 0xFFFF, where (a : b) has a on top.
FAIRWAY_HOST_DEVICE constexpr int window_last_word(int p, int bits) {
  return ((p + 1) * bits - 1) / 32;
}
FAIRWAY_HOST_DEVICE constexpr int window_previous_word(int p, int bits) {
  return (window_last_word(p, bits) + 8 * bits - 1) % (8 * bits);
}
FAIRWAY_HOST_DEVICE constexpr int window_shift(int p, int bits) {
  return 32 * (window_last_word(p, bits) + 1) - (p + 1) * bits;
}
FAIRWAY_HOST_DEVICE constexpr u32 window_state(u32 previous_word, u32 last_word, int shift) {
  return (shift == 0 ? last_word : (last_word >> shift) | (previous_word << (32 - shift))) & 0xFFFFu;
}

// Rounds numerator * 2^-18 (|numerator| < 2^22) to the nearest half, ties to even; returns its bit pattern.
// The argument is exact, so this is the single rounding of the format's fused multiply-add.
FAIRWAY_HOST_DEVICE constexpr u16 half_bits_from_fixed18(int numerator) {
  const u32 sign = numerator < 0 ? 0x8000u : 0u;
  u32 magnitude = numerator < 0 ? static_cast<u32>(-numerator) : static_cast<u32>(numerator);
  if (magnitude == 0) return static_cast<u16>(sign);
  int top = 31;
  while (!(magnitude >> top & 1u)) --top;
  // value = magnitude * 2^-18, so the leading bit weighs 2^(top - 18). A normal half has exponent >= -14.
  int exponent = top - kMul1FractionBits;
  int drop = top - 10;                         // bits below the 11-bit significand
  if (exponent < -14) drop += -14 - exponent;  // subnormal: the unit stays 2^-24
  if (drop <= 0) {
    const u32 significand = magnitude << -drop;
    if (exponent < -14) return static_cast<u16>(sign | significand);
    return static_cast<u16>(sign | (static_cast<u32>(exponent + 15) << 10) | (significand & 0x3FFu));
  }
  u32 significand = magnitude >> drop;
  const u32 rest = magnitude & ((1u << drop) - 1u);
  const u32 tie = 1u << (drop - 1);
  if (rest > tie || (rest == tie && (significand & 1u))) ++significand;
  if (exponent < -14) return static_cast<u16>(sign | significand);
  // A carry out of the significand moves the exponent up by itself.
  return static_cast<u16>(sign | ((static_cast<u32>(exponent + 15) << 10) + (significand - 0x400u)));
}

// Sum of the four bytes of x, 0..1020.
FAIRWAY_HOST_DEVICE constexpr u32 byte_sum(u32 x) {
  return (x & 0xFFu) + (x >> 8 & 0xFFu) + (x >> 16 & 0xFFu) + (x >> 24);
}

// Signed value of one half of a 3inst/mcg pair times 2^13. Its exponent field is 12..15, so this is an exact integer.
FAIRWAY_HOST_DEVICE constexpr int pair_half_times_8192(u32 half_bits) {
  const int significand = static_cast<int>(0x400u | (half_bits & 0x3FFu));
  const int exponent = static_cast<int>(half_bits >> 10 & 0x1Fu);  // 12..15; value = significand * 2^(exponent - 25)
  const int magnitude = significand << (exponent - 12);
  return (half_bits & 0x8000u) ? -magnitude : magnitude;
}

// One codebook value as a half bit pattern.
FAIRWAY_HOST_DEVICE constexpr u16 codebook_half_bits(Codebook codebook, u32 state) {
  if (codebook == Codebook::kMul1) {
    const int n = static_cast<int>(byte_sum(state * kMul1Multiplier));
    return half_bits_from_fixed18((1024 + n) * kMul1ScaleNumerator + kMul1BiasNumerator);
  }
  const u32 raw = codebook == Codebook::k3inst ? state * k3instMultiplier + k3instAddend : state * kMcgMultiplier;
  const u32 pair = (raw & kHalfPairMask) ^ kHalfPairFlip;
  const int sum = pair_half_times_8192(pair & 0xFFFFu) + pair_half_times_8192(pair >> 16);
  return half_bits_from_fixed18(sum * (1 << (kMul1FractionBits - 13)));
}

}  // namespace codec
}  // namespace fairway

#endif  // FAIRWAY_CODEC_TRELLIS_H_
