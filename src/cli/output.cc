// Printing, files and the progress line.
#include "cli/output.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>

#include "fairway/error.h"

namespace fairway::cli {
namespace {

std::string scaled(double value, const std::array<const char*, 5>& units) {
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}{}", value, units[0]);
  return fmt::format("{:.{}f}{}", value, value < 10 ? 2 : value < 100 ? 1 : 0, units[unit]);
}

}  // namespace

void print_text(std::string_view text) {
  const bool ok = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!ok) throw Error(ErrorKind::kResource, fmt::format("standard output: {}", std::strerror(errno)));
}

void print_json(const Json& value) {
  print_text(json_text(value));
}

void write_text_file(const std::filesystem::path& path, std::string_view text, const char* flag) {
  const std::string part = path.string() + ".part";
  const auto fail = [&](const char* what) {
    const int reason = errno;
    std::remove(part.c_str());
    throw Error(ErrorKind::kResource, fmt::format("{} {}: {}: {}", flag, path.string(), what, std::strerror(reason)));
  };
  std::FILE* file = std::fopen(part.c_str(), "wb");
  if (file == nullptr) fail("cannot create");
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed) fail("cannot write");
  if (std::rename(part.c_str(), path.c_str()) != 0) fail("cannot rename the finished file");
}

std::string human_bytes(double bytes) {
  return scaled(bytes, {" B", " kB", " MB", " GB", " TB"});
}
std::string human_count(double count) {
  return scaled(count, {"", " k", " M", " G", " T"});
}

// Not getrusage: its maximum is inherited from the program that started this one.
std::int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key; status.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    std::int64_t kib = 0;
    if (key == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

Progress::Progress(std::string label) : label_(std::move(label)), active_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  clear();
}

void Progress::update(double fraction, const std::string& detail) {
  if (!active_) return;
  const auto now = std::chrono::steady_clock::now();
  if (shown_ && now - last_ < std::chrono::milliseconds(80)) return;
  last_ = now;
  shown_ = true;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * kWidth);
  fmt::print(stderr, "\r\x1b[K{} [{}{}] {:3.0f}% {}", label_, std::string(static_cast<std::size_t>(filled), '#'),
             std::string(static_cast<std::size_t>(kWidth - filled), '.'), 100 * std::clamp(fraction, 0.0, 1.0), detail);
  std::fflush(stderr);
}

void Progress::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace fairway::cli
