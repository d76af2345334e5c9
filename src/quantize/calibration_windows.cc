// Windows for calibration, spread over their source.
#include "quantize/calibration_windows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "fairway/error.h"

namespace fairway::quantize {

std::vector<int> calibration_windows(std::vector<int> all, int window, int tokens, const std::string& name) {
  if (all.empty()) throw Error(ErrorKind::kBadInput, fmt::format("{}: no tokens to calibrate with", name));
  const std::size_t length = static_cast<std::size_t>(window);
  const std::size_t there = std::max<std::size_t>(1, all.size() / length);
  const std::size_t wanted = std::max<std::size_t>(1, static_cast<std::size_t>(tokens) / length);
  if (there <= wanted) return all;
  std::vector<int> chosen;
  for (std::size_t i = 0; i < wanted; ++i) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(i * there / wanted * length);
    chosen.insert(chosen.end(), begin, begin + static_cast<std::ptrdiff_t>(length));
  }
  return chosen;
}

}  // namespace fairway::quantize
