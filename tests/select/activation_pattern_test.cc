// Counts, entropy and sparsity of the widths of active experts.
#include "select/activation_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "select/expect_error.h"

namespace fairway::select {
namespace {

using test::usage_error;
using testing::HasSubstr;

double entropy_of(const std::vector<int>& bits) {
  return analyze_activation(bits).activation_entropy;
}

TEST(ActivationPattern, WidthsAreCounted) {
  const std::vector<int> bits{2, 4, 2, 8, 2};
  const ExpertActivationPattern pattern = analyze_activation(bits, 20);
  EXPECT_EQ(pattern.active_expert_bits, bits);
  EXPECT_EQ(pattern.bit_distribution, (std::map<int, int>{{2, 3}, {4, 1}, {8, 1}}));
  EXPECT_DOUBLE_EQ(pattern.expert_sparsity, 0.25);
  EXPECT_DOUBLE_EQ(pattern.share_of(2), 0.6);
  EXPECT_DOUBLE_EQ(pattern.share_of(8), 0.2);
  EXPECT_EQ(pattern.share_of(3), 0);
  EXPECT_EQ(ExpertActivationPattern{}.share_of(2), 0);
}

TEST(ActivationPattern, EntropyGoesFromNoneToThreeBits) {
  EXPECT_EQ(entropy_of({4}), 0);
  EXPECT_EQ(entropy_of({4, 4, 4}), 0);
  EXPECT_FALSE(std::signbit(entropy_of({4, 4, 4})));
  EXPECT_DOUBLE_EQ(entropy_of({2, 4}), 1);
  EXPECT_DOUBLE_EQ(entropy_of({2, 2, 4, 4, 3, 3, 8, 8}), 2);  // the documents' upper end
  EXPECT_DOUBLE_EQ(entropy_of({1, 2, 3, 4, 5, 6, 7, 8}), 3);
  EXPECT_NEAR(entropy_of({2, 2, 2, 4}), 0.8112781, 1e-7);                // -(3/4 log 3/4 + 1/4 log 1/4)
  EXPECT_DOUBLE_EQ(entropy_of({2, 4, 4, 2}), entropy_of({6, 6, 1, 1}));  // which widths they are does not matter
}

TEST(ActivationPattern, SparsityIsTheShareOfExpertsThatTakePart) {
  EXPECT_DOUBLE_EQ(analyze_activation(std::vector<int>{3, 3}, 64).expert_sparsity, 2.0 / 64);
  EXPECT_EQ(analyze_activation(std::vector<int>{3, 3}, 2).expert_sparsity, 1);
  EXPECT_EQ(analyze_activation(std::vector<int>{3, 3}).expert_sparsity, 1);  // unknown number
}

TEST(ActivationPattern, ImpossibleCallsAreErrors) {
  EXPECT_THAT(usage_error([] { analyze_activation(std::vector<int>{}); }), HasSubstr("no active experts"));
  for (const int bits : {0, 9, -2}) {
    EXPECT_THAT(usage_error([&] {
                  analyze_activation(std::vector<int>{4, bits});
                }),
                HasSubstr(std::to_string(bits) + " bits"));
  }
  EXPECT_THAT(usage_error([] {
                analyze_activation(std::vector<int>{4, 4, 4}, 2);
              }),
              HasSubstr("3 active experts of 2"));
  usage_error([] { analyze_activation(std::vector<int>{4}, -1); });
}

}  // namespace
}  // namespace fairway::select
