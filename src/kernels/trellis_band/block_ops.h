// Bodies of BlockOps for a SIMD trait S.
#pragma once

#include "codec/hadamard.h"
#include "kernels/common/expf.h"
#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

template <class S>
struct BlockBodies {
  using F = typename S::F;
  static constexpr int kVectors = codec::kHadamardDim / S::kLanes;

  // The butterflies of codec::hadamard128 in the same order per element, so the same bits.
  static void transform(F (&v)[kVectors]) {
    if constexpr (S::kLanes > 1) {
      for (int i = 0; i < kVectors; ++i) {
        v[i] = S::template butterfly<1>(v[i]);
        v[i] = S::template butterfly<2>(v[i]);
        v[i] = S::template butterfly<4>(v[i]);
        if constexpr (S::kLanes > 8) v[i] = S::template butterfly<8>(v[i]);
      }
    }
    for (int distance = 1; distance < kVectors; distance *= 2) {
      for (int base = 0; base < kVectors; base += 2 * distance) {
        for (int i = base; i < base + distance; ++i) {
          const F a = v[i];
          const F b = v[i + distance];
          v[i] = S::add(a, b);
          v[i + distance] = S::sub(a, b);
        }
      }
    }
    const F scale = S::set1(codec::kHadamardScale);
    for (int i = 0; i < kVectors; ++i) v[i] = S::mul(v[i], scale);
  }

  static void hadamard(float* x) {
    F v[kVectors];
    for (int i = 0; i < kVectors; ++i) v[i] = S::load(x + i * S::kLanes);
    transform(v);
    for (int i = 0; i < kVectors; ++i) S::store(x + i * S::kLanes, v[i]);
  }

  static void transform_input(const float* x, int count, const float* suh, float* out) {
    float padded[codec::kHadamardDim];
    if (count < codec::kHadamardDim) {
      for (int i = 0; i < codec::kHadamardDim; ++i) padded[i] = i < count ? x[i] : 0.0f;
      x = padded;
    }
    F v[kVectors];
    for (int i = 0; i < kVectors; ++i) v[i] = S::mul(S::load(x + i * S::kLanes), S::load(suh + i * S::kLanes));
    transform(v);
    for (int i = 0; i < kVectors; ++i) S::store(out + i * S::kLanes, v[i]);
  }

  static void transform_output(float* y, int rows, const float* svh, const float* bias) {
    for (int r = 0; r < rows; ++r, y += codec::kHadamardDim) {
      F v[kVectors];
      for (int i = 0; i < kVectors; ++i) v[i] = S::load(y + i * S::kLanes);
      transform(v);
      for (int i = 0; i < kVectors; ++i) {
        F value = S::mul(v[i], S::load(svh + i * S::kLanes));
        if (bias != nullptr) value = S::add(value, S::load(bias + i * S::kLanes));
        S::store(y + i * S::kLanes, value);
      }
    }
  }

  static void swiglu_block(const float* gate, const float* up, int count, float* out) {
    for (int i = 0; i < codec::kHadamardDim; i += S::kLanes) {
      S::store(out + i, swiglu<S>(S::load(gate + i), S::load(up + i)));
    }
    for (int i = count < 0 ? 0 : count; i < codec::kHadamardDim; ++i) out[i] = 0.0f;
  }

  static constexpr BlockOps table() { return {hadamard, transform_input, transform_output, swiglu_block}; }
};

}  // namespace fairway::kernels
