// The choice of windows: whole, evenly spaced, and everything if there is no more.
#include "quantize/calibration_windows.h"

#include <gmock/gmock.h>

#include <numeric>

#include "fairway/error.h"

namespace fairway::quantize {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

std::vector<int> counted(int count) {
  std::vector<int> ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(CalibrationWindows, AreSpreadOverTheFile) {
  EXPECT_THAT(calibration_windows(counted(19), 3, 9, "f"), ElementsAre(0, 1, 2, 6, 7, 8, 12, 13, 14));
  EXPECT_THAT(calibration_windows(counted(19), 3, 7, "f"), ElementsAre(0, 1, 2, 9, 10, 11));
}

TEST(CalibrationWindows, AtLeastOne) {
  EXPECT_THAT(calibration_windows(counted(19), 4, 1, "f"), ElementsAre(0, 1, 2, 3));
}

TEST(CalibrationWindows, AllIfThereIsNoMore) {
  for (const int tokens : {19, 20, 1000000000}) {
    EXPECT_THAT(calibration_windows(counted(19), 3, tokens, "f"), ElementsAreArray(counted(19))) << tokens;
  }
  EXPECT_THAT(calibration_windows(counted(2), 3, 9, "f"), ElementsAre(0, 1));  // shorter than a window
  EXPECT_THAT(calibration_windows(counted(1), 1000000000, 1, "f"), ElementsAre(0));
}

TEST(CalibrationWindows, NoTokensIsAnErrorThatNamesTheFile) {
  try {
    calibration_windows({}, 3, 9, "book.txt");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("book.txt: no tokens"));
  }
}

}  // namespace
}  // namespace fairway::quantize
