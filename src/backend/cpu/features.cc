// Reads the CPU's features, caches, processors and memory once.
#include "backend/cpu/features.h"

#include <sched.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fairway::backend {
namespace {

#if defined(__x86_64__)

struct CpuidRegisters {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidRegisters cpuid(unsigned leaf, unsigned subleaf) {
  CpuidRegisters r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

// XCR0: which register states the operating system saves. Only valid if CPUID.1:ECX.OSXSAVE is set.
std::uint64_t read_xcr0() {
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

bool bit(unsigned word, int index) {
  return (word >> index & 1u) != 0;
}

// Bit numbers are those of Intel's SDM volume 2, CPUID leaves 1 and 7.
std::uint32_t read_features() {
  const CpuidRegisters leaf1 = cpuid(1, 0);
  if (!bit(leaf1.ecx, 27)) return kCpuBaseline;  // OSXSAVE
  const std::uint64_t xcr0 = read_xcr0();
  constexpr std::uint64_t kYmmState = 0x06;  // XMM and YMM
  constexpr std::uint64_t kZmmState = 0xE0;  // opmask, upper halves of ZMM0-15, ZMM16-31
  if ((xcr0 & kYmmState) != kYmmState) return kCpuBaseline;

  const CpuidRegisters leaf7 = cpuid(7, 0);
  std::uint32_t features = kCpuBaseline;
  const bool fma = bit(leaf1.ecx, 12), avx = bit(leaf1.ecx, 28), f16c = bit(leaf1.ecx, 29);
  if (avx && fma && f16c && bit(leaf7.ebx, 5)) features |= kCpuAvx2;
  if ((features & kCpuAvx2) != 0 && bit(cpuid(7, 1).eax, 4)) features |= kCpuAvxVnni;
  if ((features & kCpuAvx2) != 0 && bit(leaf7.ecx, 8)) features |= kCpuGfni;
  if ((xcr0 & kZmmState) != kZmmState) return features;
  const bool f = bit(leaf7.ebx, 16), dq = bit(leaf7.ebx, 17), bw = bit(leaf7.ebx, 30), vl = bit(leaf7.ebx, 31);
  if (!(f && dq && bw && vl)) return features;
  features |= kCpuAvx512;
  if (bit(leaf7.ecx, 11)) features |= kCpuAvx512Vnni;
  if (bit(leaf7.ecx, 1)) features |= kCpuAvx512Vbmi;
  if (bit(leaf7.edx, 23)) features |= kCpuAvx512Fp16;
  return features;
}

std::string read_name() {
  if (cpuid(0x80000000u, 0).eax < 0x80000004u) return "unknown x86-64 CPU";
  std::array<char, 49> brand{};  // leaves 0x80000002..4 give 16 characters each
  for (unsigned i = 0; i < 3; ++i) {
    const CpuidRegisters r = cpuid(0x80000002u + i, 0);
    std::memcpy(brand.data() + 16 * i, &r, sizeof r);
  }
  std::string name = brand.data();
  const std::size_t first = name.find_first_not_of(' ');
  const std::size_t last = name.find_last_not_of(' ');
  return first == std::string::npos ? "unknown x86-64 CPU" : name.substr(first, last - first + 1);
}

#else

std::uint32_t read_features() {
  return kCpuBaseline;
}
std::string read_name() {
  return "unknown CPU";
}

#endif

int read_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  // More processors than cpu_set_t holds (EINVAL): all of them.
  const unsigned online = std::thread::hardware_concurrency();
  return online > 0 ? static_cast<int>(online) : 1;
}

std::int64_t read_sysconf(int name) {
  const long value = sysconf(name);
  return value > 0 ? value : 0;
}

std::int64_t read_memory() {
  struct sysinfo info;
  if (sysinfo(&info) != 0) return 0;
  return static_cast<std::int64_t>(info.totalram) * static_cast<std::int64_t>(info.mem_unit);
}

CpuInfo read_cpu_info() {
  CpuInfo info;
  info.features = read_features();
  info.name = read_name();
  info.cores = read_cores();
  info.l2_bytes = read_sysconf(_SC_LEVEL2_CACHE_SIZE);
  info.l3_bytes = read_sysconf(_SC_LEVEL3_CACHE_SIZE);
  info.memory_bytes = read_memory();
  return info;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = read_cpu_info();
  return info;
}

std::string cpu_feature_names(std::uint32_t features) {
  struct Named {
    CpuFeature feature;
    const char* name;
  };
  constexpr Named kNames[] = {{kCpuAvx2, "avx2"},
                              {kCpuAvxVnni, "avx_vnni"},
                              {kCpuGfni, "gfni"},
                              {kCpuAvx512, "avx512"},
                              {kCpuAvx512Vnni, "avx512_vnni"},
                              {kCpuAvx512Vbmi, "avx512_vbmi"},
                              {kCpuAvx512Fp16, "avx512_fp16"}};
  std::string out;
  for (const Named& named : kNames) {
    if ((features & named.feature) == 0) continue;
    if (!out.empty()) out += ' ';
    out += named.name;
  }
  return out;
}

}  // namespace fairway::backend
