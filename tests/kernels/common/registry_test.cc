// The registry: ids follow the grammar and are unique, sources exist, every row's body is its own.
#include "kernels/common/registry.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <set>
#include <string>
#include <tuple>

#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::kernels {
namespace {

TEST(Registry, IdsAreUniqueAndMadeOfBackendAndFamily) {
  std::set<std::string> ids;
  for (const KernelRow* row : all_kernel_rows()) {
    const std::string prefix = fmt::format("{}/{}", backend_name(row->backend), row->family);
    EXPECT_EQ(std::string(row->id).substr(0, prefix.size()), prefix);
    EXPECT_TRUE(ids.insert(row->id).second) << row->id;
    EXPECT_TRUE(std::filesystem::is_regular_file(fmt::format("{}/{}", FAIRWAY_SOURCE_DIR, row->source))) << row->source;
    EXPECT_LE(row->m_min, row->m_max) << row->id;
    EXPECT_EQ(row->weights == WeightKind::kTrellis, row->codebooks != 0) << row->id;
    EXPECT_EQ(row->backend == Backend::kCpuRef, row->requires_features == 0) << row->id;
  }
  EXPECT_TRUE(ids.contains("cpu_avx512/moe_trellis_swiglu_decode"));
  EXPECT_TRUE(ids.contains("cpu_ref/mixed_bpw_kernel"));
}

// A name stands for a kernel: rows over one body differ at least in their tile.
template <class Rows>
void expect_own_bodies(const Rows& rows) {
  for (const auto& a : rows) {
    for (const auto& b : rows) {
      EXPECT_TRUE(&a == &b || a.fn != b.fn || a.info.tile != b.info.tile) << a.info.id << " and " << b.info.id;
    }
  }
}

TEST(Registry, NoTwoRowsShareABodyAndItsTile) {
  expect_own_bodies(moe_swiglu_rows());
  expect_own_bodies(trellis_linear_rows());
}

TEST(Registry, TilesAreLegalOrAbsent) {
  for (const KernelRow* row : all_kernel_rows()) {
    EXPECT_TRUE(row->tile == Tile{} || is_legal_tile(row->tile)) << row->id;
  }
}

TEST(Registry, KnownFamiliesAreUniqueAndCoverTheTrellisRows) {
  const auto names = known_families();
  const std::set<std::string_view> known(names.begin(), names.end());
  EXPECT_EQ(known.size(), names.size());
  EXPECT_EQ(known.size(), 15u);
  for (const MoeSwigluRow& row : moe_swiglu_rows()) {
    if (row.info.weights == WeightKind::kTrellis) {
      EXPECT_TRUE(known.contains(row.info.family)) << row.info.family;
    }
  }
  EXPECT_THAT(missing_families(), testing::IsEmpty());
}

TEST(Registry, AliasesLeadToFamiliesAndSayWhy) {
  std::set<std::string_view> families;
  for (const MoeSwigluRow& row : moe_swiglu_rows()) families.insert(row.info.family);
  std::set<std::string_view> names;
  for (const KernelAlias& alias : kernel_aliases()) {
    EXPECT_TRUE(names.insert(alias.name).second) << alias.name;
    EXPECT_FALSE(families.contains(alias.name)) << alias.name << " has rows of its own";
    EXPECT_TRUE(families.contains(alias.target_family)) << alias.target_family;
    EXPECT_GT(std::string_view(alias.reason).size(), 40u) << alias.name;
    EXPECT_EQ(find_alias(alias.name), &alias);
  }
  EXPECT_EQ(find_alias("moe_trellis_swiglu_decode"), nullptr);
  EXPECT_EQ(find_alias(""), nullptr);
}

// Of the rows that selection takes by itself every number of rows from 1 up has one meant for it, on every backend and
// for both kinds of activations that all of them have; and calls of mixed sizes have one.
TEST(Registry, RowCountsAreCoveredWithoutGaps) {
  const auto plain = [](const KernelRow& row, Backend backend, Activations activations) {
    return row.weights == WeightKind::kTrellis && row.activations == activations && row.backend == backend &&
           (row.codebooks & codebook_bit(codec::Codebook::kMul1)) != 0 &&
           std::string(row.id) == fmt::format("{}/{}", backend_name(backend), row.family);  // no suffix
  };
  for (const Activations activations : {Activations::kFp32, Activations::kInt8}) {
    for (const Backend backend : {Backend::kCpuAvx2, Backend::kCpuAvx512}) {
      SCOPED_TRACE(fmt::format("{} {}", activations_name(activations), backend_name(backend)));
      for (const int m : {1, 2, 4, 5, 16, 17, 32, 33, 256, 1000000}) {
        int meant = 0;
        for (const MoeSwigluRow& row : moe_swiglu_rows()) {
          meant += plain(row.info, backend, activations) && row.info.use == RowUse::kByRows && row.info.m_min <= m &&
                   m <= row.info.m_max;
        }
        EXPECT_EQ(meant, 1) << m;
      }
      int by_call = 0;
      for (const MoeSwigluRow& row : moe_swiglu_rows()) {
        by_call += plain(row.info, backend, activations) && row.info.use == RowUse::kByCall;
      }
      EXPECT_EQ(by_call, 1);
    }
  }
}

// Selection prefers better backends, then rows that need more of the CPU, then cheaper activations. Of rows that are
// equal in all of these the first would always win.
template <class Rows>
void expect_no_overlaps(const Rows& rows) {
  const auto rank = [](const KernelRow& row) {
    return std::tuple(row.backend, std::popcount(row.requires_features), row.activations);
  };
  for (const auto& a : rows) {
    for (const auto& b : rows) {
      if (&a >= &b || a.info.use != RowUse::kByRows || b.info.use != RowUse::kByRows) continue;
      const bool alike = rank(a.info) == rank(b.info) && (a.info.codebooks & b.info.codebooks) != 0;
      const bool meet = a.info.m_min <= b.info.m_max && b.info.m_min <= a.info.m_max;
      EXPECT_FALSE(alike && meet) << a.info.id << " and " << b.info.id;
    }
  }
}

TEST(Registry, NoRowIsShadowedByAnother) {
  expect_no_overlaps(moe_swiglu_rows());
  expect_no_overlaps(trellis_linear_rows());
}

}  // namespace
}  // namespace fairway::kernels
