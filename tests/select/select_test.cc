// Which row is picked, by id, for machines with and without vector units, and what happens to wishes that cannot be
// met.
#include "select/select.h"

#include <gtest/gtest.h>

#include <string>

#include "fairway/error.h"

namespace fairway::select {
namespace {

using kernels::BitTuple;
using kernels::codebook_bit;

constexpr std::uint32_t kAvx2Machine = backend::kCpuAvx2;
constexpr std::uint32_t kAvx512Machine =
    backend::kCpuAvx2 | backend::kCpuAvx512 | backend::kCpuAvx512Vnni | backend::kCpuAvx512Vbmi;
constexpr std::uint32_t kFp16Machine = kAvx512Machine | backend::kCpuAvx512Fp16;
constexpr std::uint32_t kNoVbmiMachine = backend::kCpuAvx2 | backend::kCpuAvx512;
constexpr std::uint8_t kMul1 = codebook_bit(codec::Codebook::kMul1);
constexpr std::uint8_t kMcg = codebook_bit(codec::Codebook::kMcg);

Policy on(std::uint32_t features, ActivationMode activations = ActivationMode::kAuto) {
  Policy policy;
  policy.features = features;
  policy.activations = activations;
  return policy;
}

TrellisShape shape(int m, std::uint8_t codebooks = kMul1) {
  return {m, {6, 2, 3}, codebooks};
}

std::string moe_id(const Policy& policy, const TrellisShape& s) {
  return select_moe_swiglu(policy, s).row->info.id;
}

std::string usage_error(const auto& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    return e.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

TEST(SelectMoe, TokensPerExpertPickTheFamily) {
  const Policy policy = on(kAvx512Machine);
  EXPECT_EQ(moe_id(policy, shape(1)), "cpu_avx512/moe_trellis_swiglu_decode");
  EXPECT_EQ(moe_id(policy, shape(2)), "cpu_avx512/moe_trellis_swiglu_prefill4");
  EXPECT_EQ(moe_id(policy, shape(16)), "cpu_avx512/moe_trellis_swiglu_prefill4");
  EXPECT_EQ(moe_id(policy, shape(17)), "cpu_avx512/moe_trellis_swiglu");
  EXPECT_EQ(moe_id(policy, shape(32)), "cpu_avx512/moe_trellis_swiglu");
  EXPECT_EQ(moe_id(policy, shape(33)), "cpu_avx512/moe_trellis_swiglu_large_batch");
  EXPECT_EQ(moe_id(policy, shape(100000)), "cpu_avx512/moe_trellis_swiglu_large_batch");
}

TEST(SelectMoe, CallsOfMixedSizesHaveARowOfTheSameKind) {
  const auto by_call = [](const Policy& policy, int m, std::uint8_t codebooks) {
    const auto choice = select_moe_swiglu(policy, shape(m, codebooks));
    const auto* row = select_moe_by_call(policy, choice.row->info, codebooks);
    return std::string(row == nullptr ? "none" : row->info.id);
  };
  const Policy policy = on(kAvx512Machine);
  EXPECT_EQ(by_call(policy, 1, kMul1), "cpu_avx512/moe_trellis_swiglu_grouped");
  EXPECT_EQ(by_call(policy, 40, kMul1), "cpu_avx512/moe_trellis_swiglu_grouped");
  EXPECT_EQ(by_call(on(kAvx2Machine), 3, kMul1), "cpu_avx2/moe_trellis_swiglu_grouped");
  EXPECT_EQ(by_call(on(kAvx2Machine | backend::kCpuAvxVnni), 3, kMul1), "cpu_avx2/moe_trellis_swiglu_grouped/vnni");
  EXPECT_EQ(by_call(on(kAvx2Machine), 3, kMul1 | kMcg), "cpu_avx2/moe_trellis_swiglu_grouped_fp32acc");
  EXPECT_EQ(by_call(on(kAvx512Machine, ActivationMode::kFp32), 3, kMul1),
            "cpu_avx512/moe_trellis_swiglu_grouped_fp32acc");
  EXPECT_EQ(by_call(on(0), 3, kMul1), "none");
  Policy forced = policy;
  forced.kernel = "moe_trellis_swiglu_decode";
  EXPECT_EQ(by_call(forced, 3, kMul1), "none");
}

TEST(SelectMoe, TheMachineDecidesTheBackend) {
  EXPECT_EQ(moe_id(on(kAvx2Machine), shape(1)), "cpu_avx2/moe_trellis_swiglu_decode");
  EXPECT_EQ(moe_id(on(kNoVbmiMachine), shape(1)), "cpu_avx2/moe_trellis_swiglu_decode");
  const auto scalar = select_moe_swiglu(on(0), shape(1));
  EXPECT_STREQ(scalar.row->info.id, "cpu_ref/mixed_bpw_kernel");
  EXPECT_EQ(scalar.fallback, Fallback::kNoVectorRow);
}

TEST(SelectMoe, CodebooksWithoutACommonInt8RowFallBackAndSaySo) {
  const auto choice = select_moe_swiglu(on(kAvx512Machine), shape(1, kMul1 | kMcg));
  EXPECT_STREQ(choice.row->info.id, "cpu_avx512/moe_trellis_swiglu_decode_fp32acc");
  EXPECT_EQ(choice.fallback, Fallback::kNoInt8ForCodebook);
  const std::string message =
      usage_error([] { select_moe_swiglu(on(kAvx512Machine, ActivationMode::kInt8), shape(3, kMul1 | kMcg)); });
  EXPECT_NE(message.find("mcg"), std::string::npos) << message;
  EXPECT_NE(message.find("int8"), std::string::npos) << message;
}

// Within a backend the row that needs more of the CPU wins; a better backend wins over both.
TEST(SelectMoe, RowsForMoreOfTheCpuArePreferred) {
  const auto choice = select_moe_swiglu(on(kFp16Machine), shape(1, kMcg));
  EXPECT_STREQ(choice.row->info.id, "cpu_avx512/moe_trellis_swiglu_decode/fp16");
  EXPECT_EQ(choice.fallback, Fallback::kNone);
  EXPECT_EQ(moe_id(on(kFp16Machine), shape(50, kMcg)), "cpu_avx512/moe_trellis_swiglu_large_batch/fp16");
  EXPECT_EQ(moe_id(on(kFp16Machine), shape(1, kMul1)), "cpu_avx512/moe_trellis_swiglu_decode");
  EXPECT_EQ(moe_id(on(kFp16Machine, ActivationMode::kFp16), shape(1, kMcg)),
            "cpu_avx512/moe_trellis_swiglu_decode/fp16");
  EXPECT_EQ(moe_id(on(kFp16Machine, ActivationMode::kFp32), shape(1, kMcg)),
            "cpu_avx512/moe_trellis_swiglu_decode_fp32acc");
  EXPECT_STREQ(select_trellis_linear(on(kFp16Machine), shape(1, kMcg)).row->info.id, "cpu_avx512/trellis_linear/fp16");
  EXPECT_EQ(moe_id(on(kAvx2Machine | backend::kCpuAvxVnni), shape(3)), "cpu_avx2/moe_trellis_swiglu_prefill4/vnni");
  EXPECT_EQ(moe_id(on(kAvx512Machine | backend::kCpuAvxVnni), shape(3)), "cpu_avx512/moe_trellis_swiglu_prefill4");
  Policy avx2 = on(kFp16Machine);
  avx2.backend = kernels::Backend::kCpuAvx2;
  EXPECT_EQ(moe_id(avx2, shape(1, kMcg)), "cpu_avx2/moe_trellis_swiglu_decode/i16");
  EXPECT_EQ(moe_id(on(kAvx512Machine), shape(1, kMcg)), "cpu_avx512/moe_trellis_swiglu_decode/i16");
}

// Rows on request serve whoever names them, and nobody else.
TEST(SelectMoe, RowsOnRequestAreNeverChosenByThemselves) {
  Policy policy = on(kFp16Machine);
  for (const std::uint8_t codebooks : {kMul1, kMcg}) {
    for (const int m : {0, 1, 7, 20, 500}) {
      EXPECT_NE(select_moe_swiglu(policy, shape(m, codebooks)).row->info.use, kernels::RowUse::kOnRequest) << m;
    }
  }
  policy.kernel = "mixed_bpw_kernel";
  EXPECT_EQ(moe_id(policy, shape(1)), "cpu_avx512/mixed_bpw_kernel");
  EXPECT_EQ(moe_id(policy, shape(1, kMcg)), "cpu_ref/mixed_bpw_kernel");
}

TEST(SelectMoe, Fp32OnRequestIsNoFallback) {
  const auto choice = select_moe_swiglu(on(kAvx512Machine, ActivationMode::kFp32), shape(4));
  EXPECT_STREQ(choice.row->info.id, "cpu_avx512/moe_trellis_swiglu_prefill4_fp32acc");
  EXPECT_EQ(choice.fallback, Fallback::kNone);
}

TEST(SelectMoe, AForcedRowIsHonouredOutsideItsRangeOrRefused) {
  Policy policy = on(kAvx512Machine);
  policy.kernel = "moe_trellis_swiglu_prefill4";
  EXPECT_EQ(moe_id(policy, shape(1)), "cpu_avx512/moe_trellis_swiglu_prefill4");
  policy.kernel = "cpu_avx2/moe_trellis_swiglu_decode_fp32acc";
  EXPECT_EQ(moe_id(policy, shape(40)), "cpu_avx2/moe_trellis_swiglu_decode_fp32acc");
  policy.kernel = "cpu_avx2/moe_trellis_swiglu_decode";
  const std::string message = usage_error([&] { select_moe_swiglu(policy, shape(1, kMcg)); });
  EXPECT_NE(message.find("cpu_avx2/moe_trellis_swiglu_decode"), std::string::npos) << message;
  EXPECT_NE(message.find("(6, 2, 3)"), std::string::npos) << message;
  policy.features = 0;
  usage_error([&] { select_moe_swiglu(policy, shape(1)); });
}

TEST(SelectLinear, RowsById) {
  EXPECT_STREQ(select_trellis_linear(on(kAvx512Machine), shape(1)).row->info.id, "cpu_avx512/trellis_linear");
  EXPECT_STREQ(select_trellis_linear(on(kAvx2Machine, ActivationMode::kFp32), shape(9)).row->info.id,
               "cpu_avx2/trellis_linear_fp32acc");
  EXPECT_STREQ(select_trellis_linear(on(0), shape(9)).row->info.id, "cpu_ref/trellis_linear");
  EXPECT_STREQ(select_dense_linear(on(kAvx512Machine), 1)->info.id, "cpu_avx512/dense_linear");
  EXPECT_STREQ(select_dense_linear(on(0), 1)->info.id, "cpu_ref/dense_linear");
  EXPECT_STREQ(select_moe_dense(on(kAvx2Machine), 1)->info.id, "cpu_avx2/moe_dense_swiglu");
  EXPECT_STREQ(select_gqa(on(kAvx512Machine), 1)->info.id, "cpu_avx512/gqa");
}

TEST(SelectMla, FewerMultiplyAddsWin) {
  const MlaShape glm{192, 64, 256, 512};
  EXPECT_STREQ(select_mla(on(kAvx512Machine), 1, 4096, glm)->info.id, "cpu_avx512/mla_absorbed");
  EXPECT_STREQ(select_mla(on(kAvx512Machine), 512, 0, glm)->info.id, "cpu_avx512/mla_expanded");
  EXPECT_STREQ(select_mla(on(0), 512, 0, glm)->info.id, "cpu_ref/mla_expanded");
}

TEST(Policy, WishesAreChecked) {
  EXPECT_EQ(make_policy("cpu_ref", "", "").backend, kernels::Backend::kCpuRef);
  EXPECT_EQ(make_policy("", "fp32", "").activations, ActivationMode::kFp32);
  EXPECT_NE(usage_error([] { make_policy("cpu_sse", "", ""); }).find("cpu_ref"), std::string::npos);
  EXPECT_NE(usage_error([] { make_policy("", "int4", ""); }).find("int4"), std::string::npos);
  EXPECT_NE(usage_error([] { make_policy("", "", "no_such_kernel"); }).find("does not exist"), std::string::npos);
  EXPECT_EQ(make_policy("", "fp16", "").activations, ActivationMode::kFp16);
  EXPECT_EQ(make_policy("", "", "mixed_bpw_kernel").kernel, "mixed_bpw_kernel");
}

// No row reads mul1 with fp16 activations: that is said, not replaced.
TEST(Policy, Fp16ActivationsAreNeverReplaced) {
  const std::string message =
      usage_error([] { select_moe_swiglu(on(kAvx512Machine, ActivationMode::kFp16), shape(1)); });
  EXPECT_NE(message.find("fp16"), std::string::npos) << message;
}

TEST(Policy, ABackendRunsIfEachOfItsOpsHasARowThatDoes) {
  using kernels::Backend;
  EXPECT_TRUE(backend_runs(Backend::kCpuRef, 0));
  EXPECT_FALSE(backend_runs(Backend::kCpuAvx2, 0));
  EXPECT_TRUE(backend_runs(Backend::kCpuAvx2, kAvx2Machine));
  EXPECT_FALSE(backend_runs(Backend::kCpuAvx512, kNoVbmiMachine));  // dense rows would run, trellis rows would not
  EXPECT_TRUE(backend_runs(Backend::kCpuAvx512, kAvx512Machine));   // without the fp16 rows
}

TEST(Policy, AnAliasBecomesItsFamily) {
  for (const kernels::KernelAlias& alias : kernels::kernel_aliases()) {
    if (backend::cpu_info().features == 0) {
      usage_error([&] { make_policy("", "", alias.name); });  // the families behind the aliases are vector code
      continue;
    }
    EXPECT_EQ(make_policy("", "", alias.name).kernel, alias.target_family);
  }
  const std::string message = usage_error([] { make_policy("cpu_ref", "", "moe_trellis_swiglu_decode_6_2_3"); });
  EXPECT_NE(message.find("'moe_trellis_swiglu_decode_6_2_3' cannot run"), std::string::npos) << message;
}

}  // namespace
}  // namespace fairway::select
