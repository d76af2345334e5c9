// Every band kernel by name, with the processor features it needs and the error it may make.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/features.h"
#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

using backend::kCpuAvx2;
using backend::kCpuAvx512;
using backend::kCpuAvx512Fp16;
using backend::kCpuAvx512Vbmi;
using backend::kCpuAvx512Vnni;
using backend::kCpuAvxVnni;
using backend::kCpuGfni;

constexpr std::uint32_t kYmmVnni = kCpuAvx2 | kCpuAvxVnni;
constexpr std::uint32_t kYmmVnniGfni = kYmmVnni | kCpuGfni;
constexpr std::uint32_t kZmm = kCpuAvx512 | kCpuAvx512Vnni | kCpuAvx512Vbmi;
constexpr std::uint32_t kZmmFp16 = kZmm | kCpuAvx512Fp16;

// Errors of one product, relative to its row's norm. With the largest of 128 normal values near 2.75 deviations, int8
// activations cost 2.75 / 127 / sqrt(12) = 0.63 %; mul1_codes.h, i16.h and f16_avx512fp16.cc say what the codes cost.
constexpr double kFp32 = 2e-6, kFp16 = 0.0025, kWords = 0.0005, kPairWordsError = 0.0007, kPairSumsError = 0.0024,
                 kPairs = 0.0141, kBytes = 0.0175;

struct NamedKernel {
  const char* name;
  const BandKernel* kernel;
  std::uint32_t features;
  double row_error;  // of any row: sums of 128 columns scatter around the mean error
  bool whole_bands = false;

  // The name up to the number of rows: "pairs", "i16 bytes".
  std::string format() const {
    const std::string_view all = name;
    return std::string(all.substr(0, std::min({all.find(" single"), all.find(" quad"), all.find(" panel"),
                                               all.find(" wide"), all.find(" of any"), all.size()})));
  }
};

inline const NamedKernel kKernels[] = {
    {"f32 single avx2", &kBandF32SingleAvx2, kCpuAvx2, kFp32},
    {"f32 quad avx2", &kBandF32QuadAvx2, kCpuAvx2, kFp32},
    {"f32 panel avx2", &kBandF32PanelAvx2, kCpuAvx2, kFp32},
    {"f32 single avx512", &kBandF32SingleAvx512, kZmm, kFp32},
    {"f32 quad avx512", &kBandF32QuadAvx512, kZmm, kFp32},
    {"f32 panel avx512", &kBandF32PanelAvx512, kZmm, kFp32},
    {"pairs single avx2", &kBandI8SingleAvx2, kCpuAvx2, kPairs},
    {"pairs quad avx2", &kBandI8QuadAvx2, kCpuAvx2, kPairs},
    {"pairs single avxvnni", &kBandI8SingleAvxVnni, kYmmVnni, kPairs},
    {"pairs quad avxvnni", &kBandI8QuadAvxVnni, kYmmVnni, kPairs},
    {"pairs single avx512", &kBandI8SingleAvx512, kZmm, kPairs},
    {"pairs quad avx512", &kBandI8QuadAvx512, kZmm, kPairs},
    {"pairs of any width avx2", &kBandI8RuntimeAvx2, kCpuAvx2, kPairs},
    {"pairs of any width avx512", &kBandI8RuntimeAvx512, kZmm, kPairs},
    {"words panel avx2", &kBandWordsPanelAvx2, kCpuAvx2, kWords},
    {"words wide panel avx2", &kBandWordsWidePanelAvx2, kCpuAvx2, kWords, true},
    {"words panel avxvnni", &kBandWordsPanelAvxVnni, kYmmVnni, kWords},
    {"words wide panel avxvnni", &kBandWordsWidePanelAvxVnni, kYmmVnni, kWords, true},
    {"words panel avx512", &kBandWordsPanelAvx512, kZmm, kWords},
    {"words wide panel avx512", &kBandWordsWidePanelAvx512, kZmm, kWords, true},
    {"bytes panel avxvnni", &kBandBytesPanelAvxVnni, kYmmVnni, kBytes},
    {"bytes wide panel avxvnni", &kBandBytesWidePanelAvxVnni, kYmmVnni, kBytes, true},
    {"bytes panel avx512", &kBandBytesPanelAvx512, kZmm, kBytes},
    {"bytes wide panel avx512", &kBandBytesWidePanelAvx512, kZmm, kBytes, true},
    {"i16 single avx2", &kBandI16SingleAvx2, kCpuAvx2, kPairWordsError},
    {"i16 quad avx2", &kBandI16QuadAvx2, kCpuAvx2, kPairWordsError},
    {"i16 panel avx2", &kBandI16PanelAvx2, kCpuAvx2, kPairWordsError},
    {"i16 wide panel avx2", &kBandI16WidePanelAvx2, kCpuAvx2, kPairWordsError, true},
    {"i16 sums single gfni", &kBandI16SingleGfni, kYmmVnniGfni, kPairSumsError},
    {"i16 sums quad gfni", &kBandI16QuadGfni, kYmmVnniGfni, kPairSumsError},
    {"i16 sums panel gfni", &kBandI16PanelGfni, kYmmVnniGfni, kPairSumsError},
    {"i16 sums wide panel gfni", &kBandI16WidePanelGfni, kYmmVnniGfni, kPairSumsError, true},
    {"i16 single avx512", &kBandI16SingleAvx512, kZmm, kPairWordsError},
    {"i16 quad avx512", &kBandI16QuadAvx512, kZmm, kPairWordsError},
    {"i16 panel avx512", &kBandI16PanelAvx512, kZmm, kPairWordsError},
    {"i16 wide panel avx512", &kBandI16WidePanelAvx512, kZmm, kPairWordsError, true},
    {"i16 bytes panel avx512", &kBandI16BytesPanelAvx512, kZmm, kBytes},
    {"i16 bytes wide panel avx512", &kBandI16BytesWidePanelAvx512, kZmm, kBytes, true},
    {"i16 sum bytes panel gfni", &kBandI16BytesPanelGfni, kYmmVnniGfni, kBytes},
    {"i16 sum bytes wide panel gfni", &kBandI16BytesWidePanelGfni, kYmmVnniGfni, kBytes, true},
    {"f16 single avx512", &kBandF16SingleAvx512, kZmmFp16, kFp16},
    {"f16 quad avx512", &kBandF16QuadAvx512, kZmmFp16, kFp16},
    {"f16 panel avx512", &kBandF16PanelAvx512, kZmmFp16, kFp16},
    {"f16 wide panel avx512", &kBandF16WidePanelAvx512, kZmmFp16, kFp16, true},
    {"f16 bytes panel avx512", &kBandF16BytesPanelAvx512, kZmmFp16, kBytes},
    {"f16 bytes wide panel avx512", &kBandF16BytesWidePanelAvx512, kZmmFp16, kBytes, true},
};

// Those that this processor can run; the others are named in the log, once.
inline const std::vector<NamedKernel>& kernels_of_this_machine() {
  static const std::vector<NamedKernel> kernels = [] {
    std::vector<NamedKernel> here;
    for (const NamedKernel& k : kKernels) {
      const std::uint32_t missing = k.features & ~backend::cpu_info().features;
      if (missing == 0) {
        here.push_back(k);
      } else {
        fmt::print("not run here: {} (CPU lacks {})\n", k.name, backend::cpu_feature_names(missing));
      }
    }
    return here;
  }();
  return kernels;
}

}  // namespace fairway::kernels
