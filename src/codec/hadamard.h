// The orthonormal 128-point Walsh-Hadamard transform in natural (Sylvester) order.
//
// Element (i, j) of the matrix is (-1)^popcount(i & j) / sqrt(128); it is symmetric and its own inverse. The butterfly
// stages run from distance 1 to distance 64 and the scale is applied last, so the result has the same bits on every
// CPU as long as the compiler does not contract floating-point expressions (the build says -ffp-contract=off).
#pragma once

#include "codec/trellis.h"

namespace fairway::codec {

constexpr double kHadamardScaleExact = 0.08838834764831844055;  // 1 / sqrt(128)
constexpr float kHadamardScale = static_cast<float>(kHadamardScaleExact);

// In place over x[0..127], floats or doubles.
template <typename T>
void hadamard128(T* x) {
  for (int distance = 1; distance < kHadamardDim; distance *= 2) {
    for (int base = 0; base < kHadamardDim; base += 2 * distance) {
      for (int i = base; i < base + distance; ++i) {
        const T a = x[i];
        const T b = x[i + distance];
        x[i] = a + b;
        x[i + distance] = a - b;
      }
    }
  }
  for (int i = 0; i < kHadamardDim; ++i) x[i] *= static_cast<T>(kHadamardScaleExact);
}

}  // namespace fairway::codec
