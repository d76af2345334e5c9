// Half precision as CUDA names it, on the host compiler's _Float16.
#pragma once

#include "cuda_runtime.h"

struct __half_raw {
  unsigned short x;
};
struct __half {
  _Float16 value;
  __half() = default;
  explicit __half(__half_raw raw) : value(std::bit_cast<_Float16>(raw.x)) {}
  explicit __half(float v) : value(static_cast<_Float16>(v)) {}
  explicit operator float() const { return static_cast<float>(value); }
};
struct __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline float __half2float(__half v) {
  return static_cast<float>(v.value);
}
inline __half __float2half_rn(float v) {
  return __half(v);
}
inline __half __float2half(float v) {
  return __half(v);
}
inline __half2 __floats2half2_rn(float a, float b) {
  return {__half(a), __half(b)};
}
inline __half2 make_half2(__half a, __half b) {
  return {a, b};
}
inline __half2 __half2half2(__half a) {
  return {a, a};
}
inline float2 __half22float2(__half2 v) {
  return {__half2float(v.x), __half2float(v.y)};
}
inline float __low2float(__half2 v) {
  return __half2float(v.x);
}
inline float __high2float(__half2 v) {
  return __half2float(v.y);
}
inline __half __ushort_as_half(unsigned short bits) {
  return __half(__half_raw{bits});
}
inline unsigned short __half_as_ushort(__half v) {
  return std::bit_cast<unsigned short>(v.value);
}
inline __half2 __hmax2(__half2 a, __half2 b) {
  return {a.x.value > b.x.value ? a.x : b.x, a.y.value > b.y.value ? a.y : b.y};
}
inline __half2 __habs2(__half2 v) {
  return {__half(std::abs(__half2float(v.x))), __half(std::abs(__half2float(v.y)))};
}
// Products and sums of halves are exact in double, so each of these rounds once.
inline __half emulated_half(double v) {
  __half result;
  result.value = static_cast<_Float16>(v);
  return result;
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  const auto fma = [](__half p, __half q, __half r) {
    return emulated_half(static_cast<double>(p.value) * static_cast<double>(q.value) + static_cast<double>(r.value));
  };
  return {fma(a.x, b.x, c.x), fma(a.y, b.y, c.y)};
}
inline __half2 __hadd2(__half2 a, __half2 b) {
  return {emulated_half(static_cast<double>(a.x.value) + static_cast<double>(b.x.value)),
          emulated_half(static_cast<double>(a.y.value) + static_cast<double>(b.y.value))};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
  return {emulated_half(static_cast<double>(a.x.value) * static_cast<double>(b.x.value)),
          emulated_half(static_cast<double>(a.y.value) * static_cast<double>(b.y.value))};
}
