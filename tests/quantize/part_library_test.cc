// Parts by width: what is put at one is found there and nowhere else, also by the next library over the same folder.
#include "quantize/part_library.h"

#include <gtest/gtest.h>

#include "common/tiny_checkpoint.h"
#include "fairway/error.h"
#include "quantize/random_linear.h"

namespace fairway::test {
namespace {

using quantize::PartLibrary;
using quantize::PartStore;

const nlohmann::ordered_json kSource = {{"files", "abc"}};

TEST(PartLibrary, KeepsWidthsAndSourcesApart) {
  const TempDir dir;
  const auto two = random_linear("m", 128, 256, 2, 1), three = random_linear("m", 128, 256, 3, 2);
  {
    PartLibrary library(dir.path(), kSource, {2, 3});
    EXPECT_FALSE(library.has("m", 2));
    library.put(two, {{"bits", 2}});
    EXPECT_TRUE(library.has("m", 2));
    EXPECT_FALSE(library.has("m", 3));
    library.put(three, {{"bits", 3}});
  }
  EXPECT_FALSE(PartLibrary(dir.path(), {{"files", "abd"}}, {2, 3}).has("m", 2));
  const PartLibrary library(dir.path(), kSource, {2, 3});
  PartStore parts(dir.path() / "job", {{"job", 1}}, false);
  library.copy_to(parts, "m", 3);
  EXPECT_EQ(parts.load("m").trellis, three.trellis);
  EXPECT_EQ(parts.facts("m")["bits"], 3);
  library.copy_to(parts, "m", 2);
  EXPECT_EQ(parts.load("m").trellis, two.trellis);
}

TEST(PartLibrary, RefusesWhatItDoesNotHave) {
  const TempDir dir;
  const PartLibrary library(dir.path(), kSource, {2});
  PartStore parts(dir.path() / "job", {{"job", 1}}, false);
  EXPECT_THROW(library.copy_to(parts, "m", 2), Error);
  EXPECT_THROW(library.copy_to(parts, "m", 4), Error);
}

}  // namespace
}  // namespace fairway::test
