// Which rows of a chunk are kept where not all of them fit.
#include "engine/layer_trace.h"

#include <gtest/gtest.h>

#include <vector>

namespace fairway {
namespace {

TEST(LayerTrace, LooksAtEvenlySpacedRowsOfALargeModel) {
  constexpr int kHidden = 8192;
  engine::LayerTrace trace(1024, kHidden);  // two rows of all layers fill 64 MB
  std::vector<float> x(5 * kHidden, 1.0f), y = x;
  trace.keep(0, x.data(), 5);
  y[1 * kHidden] = 50;  // a row that is not looked at
  y[2 * kHidden + 7] = 4;
  double difference = 0, reference = 0;
  trace.compare(0, y.data(), 5, difference, reference);
  EXPECT_EQ(difference, 9);
  EXPECT_EQ(reference, 2 * kHidden);
}

}  // namespace
}  // namespace fairway
