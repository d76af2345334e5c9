// Tests of the CPU facts against the compiler's own detection and the scheduler.
#include "backend/cpu/features.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>
#include <thread>

namespace fairway::backend {
namespace {

#if defined(__x86_64__)
TEST(CpuFeatures, AgreeWithTheCompilersRuntime) {
  __builtin_cpu_init();
  const auto has = [](CpuFeature f) { return (cpu_info().features & f) != 0; };
  EXPECT_EQ(has(kCpuAvx2), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
  EXPECT_EQ(has(kCpuAvx512), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
  EXPECT_EQ(has(kCpuAvx512Vnni), has(kCpuAvx512) && __builtin_cpu_supports("avx512vnni"));
  EXPECT_EQ(has(kCpuAvx512Vbmi), has(kCpuAvx512) && __builtin_cpu_supports("avx512vbmi"));
  EXPECT_EQ(has(kCpuGfni), has(kCpuAvx2) && __builtin_cpu_supports("gfni"));
  // GCC 12's runtime has no names for these two; the kernel's list has.
  std::ifstream file("/proc/cpuinfo");
  const std::string facts(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(has(kCpuAvxVnni), has(kCpuAvx2) && facts.find(" avx_vnni") != std::string::npos);
  EXPECT_EQ(has(kCpuAvx512Fp16), has(kCpuAvx512) && facts.find(" avx512_fp16") != std::string::npos);
}
#endif

TEST(CpuFeatures, MachineFacts) {
  const CpuInfo& info = cpu_info();
  EXPECT_FALSE(info.name.empty());
  EXPECT_GE(info.cores, 1);
  EXPECT_LE(info.cores, sysconf(_SC_NPROCESSORS_CONF));
  EXPECT_GE(info.l2_bytes, 0);
  EXPECT_GE(info.l3_bytes, 0);
  const auto pages = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  EXPECT_EQ(info.memory_bytes, pages);
  EXPECT_EQ(&info, &cpu_info());
}

TEST(CpuFeatures, Names) {
  EXPECT_EQ(cpu_feature_names(kCpuBaseline), "");
  EXPECT_EQ(cpu_feature_names(kCpuAvx2), "avx2");
  EXPECT_EQ(cpu_feature_names(kCpuAvx2 | kCpuAvx512 | kCpuAvx512Vnni | kCpuAvx512Vbmi),
            "avx2 avx512 avx512_vnni avx512_vbmi");
  EXPECT_EQ(cpu_feature_names(kCpuAvx2 | kCpuAvxVnni | kCpuGfni | kCpuAvx512 | kCpuAvx512Fp16),
            "avx2 avx_vnni gfni avx512 avx512_fp16");
}

}  // namespace
}  // namespace fairway::backend
