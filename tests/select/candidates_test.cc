// Which rows and tiles may run a call, on machines that this one need not be, and what the cost model must respect.
#include "select/candidates.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "select/expect_error.h"
#include "select/machines.h"

namespace fairway::select {
namespace {

using test::kAvx2Machine;
using test::kAvx512Machine;
using test::kFp16Machine;
using test::kMcg;
using test::kMul1;
using test::layer;
using test::on;
using test::usage_error;
using testing::HasSubstr;

std::string default_id(const Policy& policy, const MoeLayerTraits& traits, int tokens) {
  return default_candidate(policy, traits, tokens).name();
}

TEST(Candidates, TheDefaultFollowsTheTokens) {
  const Policy policy = on(kAvx512Machine);
  EXPECT_EQ(default_id(policy, layer(), 1), "cpu_avx512/moe_trellis_swiglu_decode");
  for (const int tokens : {2, 16, 33, 5000}) {
    EXPECT_EQ(default_id(policy, layer(), tokens), "cpu_avx512/moe_trellis_swiglu_grouped") << tokens;
  }
  // A layer that gives every expert every token knows the size of its groups.
  const MoeLayerTraits mlp = moe_traits(1024, 512, 0, 0, 1, kMul1, {{{3, 3, 3}, 1}});
  EXPECT_EQ(default_id(policy, mlp, 2), "cpu_avx512/moe_trellis_swiglu_prefill4");
  EXPECT_EQ(default_id(policy, mlp, 20), "cpu_avx512/moe_trellis_swiglu");
  EXPECT_EQ(default_id(policy, mlp, 64), "cpu_avx512/moe_trellis_swiglu_large_batch");
  EXPECT_EQ(default_id(on(kAvx2Machine), layer(), 8), "cpu_avx2/moe_trellis_swiglu_grouped");
  EXPECT_EQ(default_id(on(kFp16Machine), layer(kMcg), 8), "cpu_avx512/moe_trellis_swiglu_grouped/fp16");
  EXPECT_EQ(default_id(on(0), layer(), 8), "cpu_ref/mixed_bpw_kernel");
  EXPECT_EQ(default_fallback(on(0), layer(), 8), Fallback::kNoVectorRow);
  EXPECT_EQ(default_fallback(on(kAvx512Machine), layer(kMul1 | kMcg), 8), Fallback::kNoInt8ForCodebook);
}

TEST(Candidates, LegalRowsRunHereReadTheLayerAndKeepItsNumbers) {
  for (const std::uint32_t machine : {0u, kAvx2Machine, kAvx512Machine, kFp16Machine}) {
    for (const std::uint8_t books : {kMul1, kMcg, static_cast<std::uint8_t>(kMul1 | kMcg)}) {
      for (const ActivationMode mode : {ActivationMode::kAuto, ActivationMode::kFp32}) {
        for (const int tokens : {1, 7, 200}) {
          const Policy policy = on(machine, mode);
          const auto legal = legal_candidates(policy, layer(books), tokens);
          const kernels::KernelRow& first = legal.front().row->info;
          SCOPED_TRACE(fmt::format("features {} codebooks {} mode {} tokens {}: {}", machine, books,
                                   static_cast<int>(mode), tokens, first.id));
          EXPECT_EQ(legal.front(), default_candidate(policy, layer(books), tokens));
          std::set<std::string> names;
          for (const MoeCandidate& candidate : legal) {
            const kernels::KernelRow& row = candidate.row->info;
            EXPECT_TRUE(names.insert(candidate.name()).second) << candidate.name() << " twice";
            EXPECT_TRUE(can_run(row, machine)) << row.id;
            EXPECT_EQ(books & ~row.codebooks, 0) << row.id;
            EXPECT_EQ(row.weights, kernels::WeightKind::kTrellis) << row.id;
            EXPECT_EQ(row.activations, first.activations) << row.id;
            EXPECT_EQ(candidate.tile, row.tile) << row.id;
            EXPECT_NE(row.use, kernels::RowUse::kOnRequest) << row.id;
            EXPECT_EQ(row.backend == kernels::Backend::kCpuRef, machine == 0) << row.id;
          }
          EXPECT_EQ(legal.size() > 1, machine != 0);
        }
      }
    }
  }
}

TEST(Candidates, WishesLimitWhatIsLegal) {
  Policy policy = on(kFp16Machine);
  policy.backend = kernels::Backend::kCpuAvx2;
  for (const MoeCandidate& c : legal_candidates(policy, layer(), 8)) {
    EXPECT_EQ(c.row->info.backend, kernels::Backend::kCpuAvx2) << c.name();
  }
  policy.backend = kernels::Backend::kCpuRef;
  EXPECT_EQ(legal_candidates(policy, layer(), 8).size(), 1u);
  usage_error([] { legal_candidates(on(kAvx512Machine, ActivationMode::kFp16), layer(kMul1), 8); });
  Policy forced = on(kAvx512Machine);
  forced.kernel = "moe_trellis_swiglu_prefill4";
  for (const int tokens : {1, 8, 900}) {
    const auto only = promising_candidates(forced, layer(), tokens, 2);
    ASSERT_EQ(only.size(), 1u);
    EXPECT_EQ(only[0].name(), "cpu_avx512/moe_trellis_swiglu_prefill4");
  }
  forced.kernel = "mixed_bpw_kernel";
  EXPECT_EQ(default_id(forced, layer(), 8), "cpu_avx512/mixed_bpw_kernel");
  forced.kernel = "cpu_avx2/moe_trellis_swiglu_decode";
  usage_error([&] { default_candidate(forced, layer(kMcg), 8); });
}

TEST(Candidates, PruningKeepsTheDefaultFirstAndNothingHopeless) {
  for (const std::uint32_t machine : {0u, kAvx2Machine, kAvx512Machine}) {
    for (const int tokens : {1, 2, 5, 16, 40, 300, 2000}) {
      SCOPED_TRACE(fmt::format("features {} tokens {}", machine, tokens));
      const Policy policy = on(machine);
      const auto wide = promising_candidates(policy, layer(), tokens, 2, 10.0);
      const auto narrow = promising_candidates(policy, layer(), tokens, 2, 0.25);
      const auto none = promising_candidates(policy, layer(), tokens, 2, 0.0);
      const MoeCandidate first = default_candidate(policy, layer(), tokens);
      for (const auto* list : {&wide, &narrow, &none}) {
        EXPECT_EQ(list->front(), first);
        std::set<std::string> names;
        for (const MoeCandidate& c : *list) EXPECT_TRUE(names.insert(c.name()).second) << c.name() << " twice";
      }
      EXPECT_GE(wide.size(), narrow.size());
      EXPECT_GE(narrow.size(), none.size());
      double best = predicted_ms(first, layer(), tokens, 2);
      for (const MoeCandidate& c : wide) best = std::min(best, predicted_ms(c, layer(), tokens, 2));
      for (std::size_t i = 1; i < narrow.size(); ++i) {
        EXPECT_LE(predicted_ms(narrow[i], layer(), tokens, 2), best * 1.25 * (1 + 1e-9)) << narrow[i].name();
        EXPECT_TRUE(std::find(wide.begin(), wide.end(), narrow[i]) != wide.end());
        const kernels::Tile& tile = narrow[i].tile;
        EXPECT_TRUE(tile == narrow[i].row->info.tile || is_legal_tile(tile)) << narrow[i].name();
      }
    }
  }
}

TEST(Candidates, NamesParseToWhatTheyWerePrintedFrom) {
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    for (const kernels::Tile& tile : {row.info.tile, kernels::Tile{7, 64, 1}, kernels::Tile{512, 64, 2}}) {
      const MoeCandidate candidate{&row, tile};
      EXPECT_EQ(parse_candidate(candidate.name()), candidate) << candidate.name();
    }
    EXPECT_EQ((MoeCandidate{&row, row.info.tile}).name(), row.info.id);
  }
  // An id that begins with another id, with and without a tile.
  const MoeCandidate vnni = parse_candidate("cpu_avx2/moe_trellis_swiglu/vnni/m8n64w1");
  EXPECT_STREQ(vnni.row->info.id, "cpu_avx2/moe_trellis_swiglu/vnni");
  EXPECT_EQ(vnni.tile, (kernels::Tile{8, 64, 1}));
  EXPECT_EQ(parse_candidate("cpu_avx2/moe_trellis_swiglu/m8n64w1").row->info.requires_features, kAvx2Machine);
}

TEST(Candidates, NamesOfNothingAreErrors) {
  for (const char* name : {"", "moe_trellis_swiglu", "cpu_avx512", "cpu_avx512/moe_trellis_swiglu_grouped2",
                           "cpu_avx9/moe_trellis_swiglu"}) {
    EXPECT_THAT(usage_error([&] { parse_candidate(name); }), HasSubstr("does not exist")) << name;
  }
  for (const char* tile : {"/", "/m8", "/m8n64", "/m8n64w", "/m8n64w1x", "/m0n64w1", "/m8n65w1", "/m8n64w3",
                           "/m8n128w2", "/m-8n64w1", "/n64m8w1", "/m99999999999n64w1", "/m8n64w1/m8n64w1"}) {
    EXPECT_THAT(usage_error([&] { parse_candidate(std::string("cpu_avx512/moe_trellis_swiglu_grouped") + tile); }),
                HasSubstr("is no tile"))
        << tile;
  }
}

// More work takes no less time, more threads no more. Rounding of the expected groups may show in the last digits.
TEST(CostModel, IsMonotoneInWorkAndThreads) {
  constexpr double kRounding = 1 + 1e-3;
  const auto wide = moe_traits(4096, 1408, 64, 4, 1, kMul1, {{{6, 2, 3}, 1}});
  const auto deep = moe_traits(2048, 2816, 64, 4, 1, kMul1, {{{6, 2, 3}, 1}});
  const auto heavy = moe_traits(2048, 1408, 64, 4, 1, kMul1, {{{8, 8, 8}, 1}});
  const auto more = moe_traits(2048, 1408, 64, 8, 1, kMul1, {{{6, 2, 3}, 1}});
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    if (row.info.weights != kernels::WeightKind::kTrellis) continue;
    const MoeCandidate candidate{&row, row.info.tile};
    SCOPED_TRACE(row.info.id);
    double last = 0;
    for (const int tokens : {1, 2, 3, 4, 5, 8, 16, 17, 32, 33, 64, 100, 256, 1000, 4000}) {
      const double ms = predicted_ms(candidate, layer(), tokens, 2);
      EXPECT_GE(ms * kRounding, last) << tokens << " tokens";
      EXPECT_TRUE(std::isfinite(ms) && ms > 0);
      last = ms;
      for (const auto* bigger : {&wide, &deep, &heavy, &more}) {
        EXPECT_GE(predicted_ms(candidate, *bigger, tokens, 2) * kRounding, ms) << tokens << " tokens";
      }
      EXPECT_GE(predicted_ms(candidate, layer(), tokens, 1) * kRounding, ms) << tokens << " tokens";
      EXPECT_LE(predicted_ms(candidate, layer(), tokens, 64), ms * kRounding) << tokens << " tokens";
    }
  }
}

// What the rules rest on: without sharing a decode, many rows of one expert are hopeless.
TEST(CostModel, SharingADecodePaysForManyRowsOnly) {
  const auto decode = parse_candidate("cpu_avx512/moe_trellis_swiglu_decode");
  const auto grouped = parse_candidate("cpu_avx512/moe_trellis_swiglu_grouped");
  EXPECT_LE(predicted_ms(decode, layer(), 1, 1), predicted_ms(grouped, layer(), 1, 1));
  EXPECT_GT(predicted_ms(decode, layer(), 512, 1), 2 * predicted_ms(grouped, layer(), 512, 1));
}

}  // namespace
}  // namespace fairway::select
