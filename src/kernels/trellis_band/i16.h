// How integer kernels read 3inst and mcg. A value is the sum of the two halves of the state's product, masked and
// flipped: a sign s, two exponent bits e and a significand t = 1024..2047 each, half = (-1)^s * t * 2^e / 8192.
//
// kPairWords: the code c = round(t F / 2^15) summed over both halves, with the factor F = +-3855 * 2^e, so value =
// c / 963.78 and |c| <= 3830; activations have 12 bits, 3830 * 4095 * 128 < 2^31. The error over all states is 0.041 %
// of the deviation 1.244. F is 257 * 15 * 2^e because a byte shuffle looks it up: both bytes of F are the same table
// entry (for a negative F that makes -257 * 15 * 2^e - 1).
//
// kPairBytes: the upper byte of 8 c + 2^15, for panels of many rows on processors with byte dot products: 0.77 %.
//
// kPairSums: the code c = +-2^e (t >> 3) summed over both halves, |c| <= 4056, so value = c / 1021.83. A significand is
// one byte here and a factor another, so that one byte product multiplies and adds. Activations have 12 bits, 4056 *
// 4095 * 128 < 2^31. The error is 0.155 %, most of it from the significand's lost bits.
//
// kPairSumBytes: the upper byte of 8 c + 2^15 for this c: 0.745 %.
#pragma once

#include <cstdint>

#include "codec/trellis.h"
#include "kernels/trellis_band/mul1_codes.h"

namespace fairway::kernels {

// Over all states the mean error of a word is -4.2e-5 and of a byte, whose lower bits are 15.5 on average, as much.
constexpr CodeScale kPairWords{1.0f / 963.78f, -4.2e-5f};
constexpr CodeScale kPairBytes{32.0f / 963.78f, (128.0f * 32 - 15.5f) / 963.78f - 4.2e-5f};
constexpr int kPairWordsLargestValue = 4095;

// The step that is best for both codebooks over all states; the mean error of a sum is below 5e-6, and the lower bits
// of a byte are 14.85 on average.
constexpr CodeScale kPairSums{1.0f / 1021.83f, 0.0f};
constexpr CodeScale kPairSumBytes{32.0f / 1021.83f, (128.0f * 32 - 14.85f) / 1021.83f};
constexpr int kPairSumsLargestValue = 4095;

// One half of a product as it comes: bit 15 is s, bits 11 and 10 are e with the upper bit inverted, bits 9..0 are the
// significand with some bits inverted.
constexpr int kSignificandMask = 0x03FF;
constexpr int kSignificandFlip = 0x0400 | (codec::kHalfPairFlip & kSignificandMask);  // and its leading one
constexpr int kFactorMask = 0x8C00;
static_assert((codec::kHalfPairFlip & 0xFFFF) == codec::kHalfPairFlip >> 16);

// Multiplying the masked bits by this puts s and the raw exponent bits x into both bytes of the product's upper half,
// as 2 x + s in the lower three bits of each; bit 7 of a byte stays clear.
constexpr int kFactorSpread = 0x8282;

// The table entry for 2 x + s; the third index bit of a byte shuffle is a copy of one of x and does not matter.
// kInverted: s arrives inverted.
constexpr std::uint8_t factor_byte(int index, bool inverted) {
  const bool negative = (index % 2 != 0) != inverted;
  const int magnitude = 15 << ((index / 2 % 4) ^ 2);
  return static_cast<std::uint8_t>(negative ? 255 - magnitude : magnitude);
}

}  // namespace fairway::kernels
