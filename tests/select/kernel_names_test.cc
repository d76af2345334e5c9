// Names by the rules of a device family: the founding documents' table for the M4 Max, the processors' own, gating by
// availability.
#include "select/kernel_names.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "backend/cpu/features.h"
#include "select/expect_error.h"

namespace fairway::select {
namespace {

using test::usage_error;
using testing::HasSubstr;

// Everything the documents name, as on a machine that has it all.
KernelSet every_name() {
  KernelSet names;
  for (const std::string_view name : kernels::known_families()) names.emplace(name);
  return names;
}

struct Asked {
  int batch;
  bool fp32 = false;
  std::optional<kernels::BitTuple> bits = std::nullopt;
};

KernelName on_m4(const Asked& asked, const KernelSet& available = every_name()) {
  return select_moe_kernel({asked.batch, asked.fp32, asked.bits, &available, &device_profile("M4 Max")});
}

// Founding document 001, "Batch Size Ranges".
TEST(KernelNames, TheM4ProfileIsTheDocumentsTable) {
  const struct {
    int first, last;
    const char* kernel;
    int tile_n;
  } table[] = {{1, 1, "moe_trellis_swiglu_decode", 64},
               {2, 16, "moe_trellis_swiglu_prefill4", 64},
               {17, 32, "moe_trellis_swiglu", 64},
               {33, 1 << 30, "moe_trellis_swiglu_large_batch", 128}};
  for (const auto& row : table) {
    for (const int batch : {row.first, (row.first + row.last) / 2, row.last}) {
      SCOPED_TRACE(fmt::format("batch {}", batch));
      EXPECT_EQ(on_m4({batch}).kernel, row.kernel);
      EXPECT_EQ(on_m4({batch}).tile_n, row.tile_n);
      EXPECT_EQ(on_m4({batch, true}).kernel, std::string(row.kernel) + "_fp32acc");
      EXPECT_EQ(on_m4({batch, true}).tile_n, row.tile_n);
    }
  }
}

TEST(KernelNames, ASingleTokenGetsTheDecodeKernelOfItsWidths) {
  EXPECT_EQ(on_m4({1, false, {{6, 2, 3}}}).kernel, "moe_trellis_swiglu_decode_6_2_3");
  EXPECT_EQ(on_m4({1, false, {{6, 3, 4}}}).kernel, "moe_trellis_swiglu_decode_6_3_4");
  EXPECT_EQ(on_m4({1, false, {{6, 2, 4}}}).kernel, "moe_trellis_swiglu_decode_6_2_4");
  EXPECT_EQ(on_m4({1, false, {{6, 2, 3}}}).tile_n, 64);
  EXPECT_EQ(on_m4({1, false, {{3, 2, 6}}}).kernel, "moe_trellis_swiglu_decode");  // the order counts
  EXPECT_EQ(on_m4({2, false, {{6, 2, 3}}}).kernel, "moe_trellis_swiglu_prefill4");
  EXPECT_EQ(on_m4({1, true, {{6, 2, 3}}}).kernel, "moe_trellis_swiglu_decode_fp32acc");
}

// Founding document 004, "gate specialized decode kernels by availability": what no library holds is not chosen.
TEST(KernelNames, ADecodeKernelThatIsNotThereIsNotChosen) {
  KernelSet without = every_name();
  without.erase("moe_trellis_swiglu_decode_6_2_3");
  EXPECT_EQ(on_m4({1, false, {{6, 2, 3}}}, without).kernel, "moe_trellis_swiglu_decode");
  EXPECT_EQ(on_m4({1, false, {{6, 2, 4}}}, without).kernel, "moe_trellis_swiglu_decode_6_2_4");
}

TEST(KernelNames, WithoutItsKernelABatchGetsTheBaseKernelThenAnyThatIsThere) {
  const KernelSet base{"mixed_bpw_kernel", "moe_trellis_swiglu"}, other{"mixed_bpw_kernel"};
  EXPECT_EQ(on_m4({8}, base).kernel, "moe_trellis_swiglu");
  EXPECT_EQ(on_m4({100}, base).tile_n, 128);
  EXPECT_EQ(on_m4({8}, other).kernel, "mixed_bpw_kernel");
  EXPECT_EQ(on_m4({8, true}, {"moe_trellis_swiglu", "moe_trellis_swiglu_fp32acc"}).kernel,
            "moe_trellis_swiglu_fp32acc");
  usage_error([] { on_m4({8}, {}); });
  // The rules alone name the kernel all the same.
  const NameQuery query{8, false, std::nullopt, &other, &device_profile("M4")};
  EXPECT_EQ(get_kernel_for_batch_size(query).kernel, "moe_trellis_swiglu_prefill4");
  EXPECT_EQ(get_moe_kernel(query), "mixed_bpw_kernel");
}

TEST(KernelNames, LargeHiddenSizesAccumulateInFp32OnTheM4) {
  const KernelSet every = every_name();
  const auto recommend = [&](int hidden, bool asked, const char* device) {
    return recommend_kernel({8, asked, std::nullopt, &every, &device_profile(device)}, hidden);
  };
  const KernelRecommendation below = recommend(1023, false, "M4"), at = recommend(1024, false, "M4");
  EXPECT_EQ(below.name.kernel, "moe_trellis_swiglu_prefill4");
  EXPECT_FALSE(below.use_fp32_acc);
  EXPECT_THAT(below.reason, HasSubstr("prefill4"));
  EXPECT_EQ(at.name.kernel, "moe_trellis_swiglu_prefill4_fp32acc");
  EXPECT_TRUE(at.use_fp32_acc);
  EXPECT_THAT(at.reason, HasSubstr("1024"));
  EXPECT_TRUE(recommend(64, true, "M4").use_fp32_acc);
  EXPECT_FALSE(recommend(8192, false, "cpu_avx512").use_fp32_acc);
  EXPECT_TRUE(recommend(8192, true, "cpu_avx512").use_fp32_acc);
  usage_error([&] { recommend(0, false, "M4"); });
}

TEST(KernelNames, ProcessorsHaveRulesOfTheirOwn) {
  const KernelSet every = every_name();
  for (const char* family : {"cpu_avx512", "cpu_avx2", "cpu_ref"}) {
    SCOPED_TRACE(family);
    const auto name = [&](int batch) {
      return select_moe_kernel({batch, false, kernels::BitTuple{6, 2, 3}, &every, &device_profile(family)}).kernel;
    };
    EXPECT_EQ(name(1), "moe_trellis_swiglu_decode");  // one body for all widths: no specialised names
    for (const int batch : {2, 16, 17, 32, 33, 4096}) EXPECT_EQ(name(batch), "moe_trellis_swiglu_grouped") << batch;
  }
}

// Whatever this machine is, its own profile names kernels that run here, for any batch.
TEST(KernelNames, OnThisMachineEveryNameCanRun) {
  const KernelSet here = available_families();
  EXPECT_TRUE(here.contains("mixed_bpw_kernel"));  // the reference runs everywhere
  for (const int batch : {1, 2, 16, 17, 32, 33, 1000}) {
    for (const bool fp32 : {false, true}) {
      const std::string name = get_moe_kernel({batch, fp32, std::nullopt, nullptr, nullptr});
      EXPECT_TRUE(is_available(name)) << name << " for " << batch;
      EXPECT_TRUE(here.contains(name)) << name;
    }
  }
  EXPECT_EQ(is_available("moe_trellis_swiglu_grouped"), (backend::cpu_info().features & backend::kCpuAvx2) != 0);
  EXPECT_FALSE(is_available("no_such_kernel"));
  for (const std::string_view missing : kernels::missing_families()) EXPECT_FALSE(is_available(missing)) << missing;
}

TEST(KernelNames, DevicesAreFoundByFamilyAndByName) {
  EXPECT_EQ(device_profiles().front().family, "M4");
  for (const char* device : {"M4", "m4", "M4 Max", "m4_max", "M4 Pro"}) {
    EXPECT_EQ(device_profile(device).family, "M4") << device;
  }
  EXPECT_EQ(device_profile("CPU_AVX2").family, "cpu_avx2");
  EXPECT_EQ(device_profile(this_device_name()).family, this_device().family);
  for (const char* unknown : {"M40", "M5 Max", "", "cpu"}) {
    EXPECT_THAT(usage_error([&] { device_profile(unknown); }), HasSubstr("cpu_avx512")) << unknown;
  }
}

TEST(KernelNames, ABatchHasAtLeastOneToken) {
  for (const int batch : {0, -1}) {
    EXPECT_THAT(usage_error([&] { on_m4({batch}); }), HasSubstr(std::to_string(batch)));
    usage_error([&] { rule_for_batch(device_profile("cpu_ref"), batch); });
  }
  EXPECT_EQ(rule_for_batch(device_profile("M4"), kNoBatchLimit).bucket, "large_batch");
}

TEST(KernelNames, Fp32SuffixIsAddedOnce) {
  EXPECT_EQ(with_fp32acc("moe_trellis_swiglu"), "moe_trellis_swiglu_fp32acc");
  EXPECT_EQ(with_fp32acc("moe_trellis_swiglu_fp32acc"), "moe_trellis_swiglu_fp32acc");
}

TEST(KernelNames, OnlyNamesThatExistPassTheCheck) {
  for (const std::string_view name : kernels::known_families()) EXPECT_NO_THROW(check_kernel_name(name)) << name;
  for (const kernels::KernelRow* row : kernels::all_kernel_rows()) EXPECT_NO_THROW(check_kernel_name(row->id));
  for (const char* name : {"", "moe_trellis_swiglu_", "cpu_avx512/", "turbo"}) {
    EXPECT_THAT(usage_error([&] { check_kernel_name(name); }), HasSubstr("does not exist")) << name;
  }
}

}  // namespace
}  // namespace fairway::select
