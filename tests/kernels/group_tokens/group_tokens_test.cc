// Tests of the grouping of assignments by expert: a worked example, the properties on random input, reuse of storage.
#include "kernels/group_tokens/group_tokens.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace fairway::kernels {
namespace {

using Ints = std::vector<std::int32_t>;

TEST(GroupTokens, WorkedExample) {
  const Ints ids{2, 0, 0, 3, 2, 3};  // tokens 0, 1, 2 choose {2, 0}, {0, 3}, {2, 3}
  TokenGroups groups;
  group_tokens(ids.data(), 3, 2, 5, groups);
  EXPECT_EQ(groups.offsets, (Ints{0, 2, 2, 4, 6, 6}));
  EXPECT_EQ(groups.rows, (Ints{0, 1, 0, 2, 1, 2}));
  EXPECT_EQ(groups.slot_of, (Ints{2, 0, 1, 4, 3, 5}));
}

TEST(GroupTokens, NoTokens) {
  TokenGroups groups;
  group_tokens(nullptr, 0, 4, 3, groups);
  EXPECT_EQ(groups.offsets, (Ints{0, 0, 0, 0}));
  EXPECT_TRUE(groups.rows.empty());
  EXPECT_TRUE(groups.slot_of.empty());
}

TEST(GroupTokens, PropertiesOnRandomInputWithReusedStorage) {
  const unsigned seed = 41;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  TokenGroups groups;
  for (int round = 0; round < 200; ++round) {
    const int m = static_cast<int>(random() % 40), top_k = 1 + static_cast<int>(random() % 5);
    const int experts = 1 + static_cast<int>(random() % 12);
    Ints ids(static_cast<std::size_t>(m * top_k));
    for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % static_cast<unsigned>(experts));
    group_tokens(ids.data(), m, top_k, experts, groups);

    ASSERT_EQ(groups.offsets.size(), static_cast<std::size_t>(experts) + 1);
    ASSERT_EQ(groups.rows.size(), ids.size());
    ASSERT_EQ(groups.slot_of.size(), ids.size());
    ASSERT_EQ(groups.offsets.front(), 0);
    ASSERT_EQ(groups.offsets.back(), m * top_k);
    std::vector<int> uses(ids.size(), 0);
    for (std::size_t a = 0; a < ids.size(); ++a) {
      const std::int32_t slot = groups.slot_of[a];
      ++uses.at(static_cast<std::size_t>(slot));
      const auto expert = static_cast<std::size_t>(ids[a]);
      ASSERT_GE(slot, groups.offsets[expert]);
      ASSERT_LT(slot, groups.offsets[expert + 1]);
      ASSERT_EQ(groups.rows[static_cast<std::size_t>(slot)], static_cast<std::int32_t>(a) / top_k);
    }
    for (const int count : uses) ASSERT_EQ(count, 1);
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
      for (std::int32_t slot = groups.offsets[e] + 1; slot < groups.offsets[e + 1]; ++slot) {
        ASSERT_LE(groups.rows[static_cast<std::size_t>(slot - 1)], groups.rows[static_cast<std::size_t>(slot)]);
      }
    }
  }
}

}  // namespace
}  // namespace fairway::kernels
