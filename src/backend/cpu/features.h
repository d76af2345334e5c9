// Which instruction sets this CPU and operating system offer, read once with CPUID and XGETBV.
#pragma once

#include <cstdint>
#include <string>

namespace fairway::backend {

// Feature groups that kernel rows require. A row's requirement is a union of these bits.
enum CpuFeature : std::uint32_t {
  kCpuBaseline = 0,
  kCpuAvx2 = 1u << 0,        // AVX2, FMA and F16C together
  kCpuAvx512 = 1u << 1,      // AVX-512 F, BW, DQ, VL
  kCpuAvx512Vnni = 1u << 2,  // byte dot products
  kCpuAvx512Vbmi = 1u << 3,  // byte permutes and multishift
  kCpuAvxVnni = 1u << 4,     // byte dot products of 256 bits without AVX-512
  kCpuAvx512Fp16 = 1u << 5,  // arithmetic in half precision
  kCpuGfni = 1u << 6,        // bit matrices times bytes, of 256 bits without AVX-512
};

struct CpuInfo {
  std::uint32_t features = 0;  // union of CpuFeature, zero where the OS does not save the registers
  std::string name;            // brand string
  int cores = 1;               // processors this process may run on (affinity mask)
  std::int64_t l2_bytes = 0;   // per core; 0 if unknown
  std::int64_t l3_bytes = 0;   // shared; 0 if unknown
  std::int64_t memory_bytes = 0;
};

const CpuInfo& cpu_info();

// "avx2 avx_vnni gfni avx512 avx512_vnni avx512_vbmi avx512_fp16", space-separated, for messages.
std::string cpu_feature_names(std::uint32_t features);

}  // namespace fairway::backend
