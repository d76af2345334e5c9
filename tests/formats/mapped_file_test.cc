// Mapped files: what was given back reads the same afterwards, and takes no memory until then.
#include "formats/mapped_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "formats/model_files.h"

namespace fairway::test {
namespace {

// Pages of files that this process has in memory, in kB (proc_pid_status(5)).
long file_kilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    long value = 0;
    if (word == "RssFile:" && status >> value) return value;
  }
  return -1;
}

TEST(MappedFile, ReleasedPagesReadTheSame) {
  constexpr std::size_t kBytes = 32u << 20;
  const TempDir dir;
  std::string content(kBytes, '\0');
  for (std::size_t i = 0; i < kBytes; ++i) content[i] = static_cast<char>(i * 2654435761u >> 24);
  write_file(dir.path() / "data", content);
  const formats::MappedFile file(dir.path() / "data");
  const auto same = [&] {
    return std::equal(content.begin(), content.end(), reinterpret_cast<const char*>(file.bytes().data()));
  };
  ASSERT_EQ(file.bytes().size(), kBytes);
  const long before = file_kilobytes();
  EXPECT_TRUE(same());
  const long mapped = file_kilobytes();
  EXPECT_GT(mapped - before, static_cast<long>(kBytes / 1024 / 2));
  file.release();
  EXPECT_LT(file_kilobytes() - before, static_cast<long>(kBytes / 1024 / 8));
  EXPECT_TRUE(same());
}

TEST(MappedFile, AnEmptyFileHasNothingToRelease) {
  const TempDir dir;
  write_file(dir.path() / "empty", "");
  const formats::MappedFile file(dir.path() / "empty");
  EXPECT_TRUE(file.bytes().empty());
  file.release();
}

}  // namespace
}  // namespace fairway::test
