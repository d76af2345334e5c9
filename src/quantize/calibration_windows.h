// Which of a file's tokens calibration runs on.
#pragma once

#include <string>
#include <vector>

namespace fairway::quantize {

// Whole windows of `window` tokens, evenly spaced over `all`, about `tokens` in all but at least one window; all of it
// if it has no more than that. Both at least 1. Error(kBadInput) naming the file `name` if there are no tokens.
std::vector<int> calibration_windows(std::vector<int> all, int window, int tokens, const std::string& name);

}  // namespace fairway::quantize
