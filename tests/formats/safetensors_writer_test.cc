// The writer: what it writes reads back, what is wrong is refused, and no half-written file is ever left behind.
#include "formats/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "formats/model_files.h"

namespace fairway::formats {
namespace {

using test::catch_error;
using test::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::uint8_t> pattern(std::size_t size, int seed) {
  std::vector<std::uint8_t> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(i * 31 + static_cast<std::size_t>(seed));
  return bytes;
}

std::size_t files_in(const std::filesystem::path& dir) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(dir), {}));
}

TEST(SafetensorsWriter, ReadsBackInPieces) {
  const TempDir dir;
  const auto path = dir.path() / "out.safetensors";
  const std::size_t large = 3u << 20;  // more than the buffer
  {
    SafetensorsWriter writer(path, {{"z", TensorType::kU8, {static_cast<std::int64_t>(large)}},
                                    {"empty", TensorType::kF32, {0, 5}},
                                    {"a \"quoted\" \xc3\xa9", TensorType::kBf16, {2, 3}},
                                    {"scalar", TensorType::kI32, {}}});
    const auto z = pattern(large, 1);
    const std::span<const std::uint8_t> all = z;
    writer.write(all.first(10));
    writer.write({});
    writer.write(all.subspan(10));
    writer.write(pattern(12, 2));
    writer.write(pattern(4, 3));
    EXPECT_FALSE(std::filesystem::exists(path));
    writer.finish();
  }
  EXPECT_EQ(files_in(dir.path()), 1u);
  const SafetensorsFile file = SafetensorsFile::open(path);
  ASSERT_EQ(file.tensors().size(), 4u);
  const auto bytes_of = [&](const char* name) {
    const TensorView* tensor = file.find(name);
    return std::vector<std::uint8_t>(tensor->bytes.begin(), tensor->bytes.end());
  };
  EXPECT_EQ(bytes_of("z"), pattern(large, 1));
  EXPECT_EQ(bytes_of("a \"quoted\" \xc3\xa9"), pattern(12, 2));
  EXPECT_EQ(bytes_of("scalar"), pattern(4, 3));
  EXPECT_EQ(file.find("empty")->shape, (std::vector<std::int64_t>{0, 5}));
  // Data begins on a multiple of eight, as the reference library writes it.
  EXPECT_EQ((static_cast<std::size_t>(file.file_bytes()) - large - 16) % 8, 0u);
}

TEST(SafetensorsWriter, UnfinishedLeavesNothingAndKeepsTheOldFile) {
  const TempDir dir;
  const auto path = dir.path() / "out.safetensors";
  test::write_file(path, "old");
  {
    SafetensorsWriter writer(path, {{"a", TensorType::kU8, {4}}});
    writer.write(pattern(2, 0));
    EXPECT_EQ(files_in(dir.path()), 2u);
    EXPECT_THAT(catch_error([&] { writer.finish(); }).message,
                AllOf(HasSubstr("out.safetensors"), HasSubstr("\"a\""), HasSubstr("2 of 4 bytes")));
  }
  EXPECT_EQ(files_in(dir.path()), 1u);
  EXPECT_EQ(test::read_file(path), "old");
}

TEST(SafetensorsWriter, RefusesMoreThanDeclared) {
  const TempDir dir;
  SafetensorsWriter writer(dir.path() / "x", {{"a", TensorType::kU8, {4}}, {"b", TensorType::kU8, {1}}});
  EXPECT_THAT(catch_error([&] { writer.write(pattern(5, 0)); }).message,
              AllOf(HasSubstr("\"a\""), HasSubstr("5 bytes"), HasSubstr("4 of 4")));
  writer.write(pattern(4, 0));
  writer.write(pattern(1, 0));
  EXPECT_THAT(catch_error([&] { writer.write(pattern(1, 0)); }).message, HasSubstr("beyond the last declared tensor"));
  writer.finish();
  EXPECT_THAT(catch_error([&] { writer.write(pattern(1, 0)); }).message, HasSubstr("after finish"));
  EXPECT_THAT(catch_error([&] { writer.finish(); }).message, HasSubstr("finished twice"));
}

TEST(SafetensorsWriter, RefusesSpecsThatCannotBeRead) {
  const TempDir dir;
  const auto message = [&](std::vector<TensorSpec> specs) {
    const auto caught = catch_error([&] { SafetensorsWriter(dir.path() / "x", specs); });
    EXPECT_EQ(caught.kind, ErrorKind::kUsage);
    return caught.message;
  };
  EXPECT_THAT(message({{"a", TensorType::kU8, {1}}, {"a", TensorType::kU8, {1}}}), HasSubstr("declared twice"));
  EXPECT_THAT(message({{"__metadata__", TensorType::kU8, {1}}}), HasSubstr("reserved"));
  EXPECT_THAT(message({{"a", TensorType::kU8, {-1}}}), HasSubstr("[-1]"));
  EXPECT_THAT(message({{"a", TensorType::kF32, {1LL << 40, 1LL << 40}}}), HasSubstr("overflows"));
  EXPECT_THAT(message({{"a", TensorType::kU8, {INT64_MAX}}, {"b", TensorType::kU8, {INT64_MAX}}}), HasSubstr("2^63"));
  EXPECT_THAT(message({{"\xff", TensorType::kU8, {1}}}), HasSubstr("UTF-8"));
  EXPECT_EQ(files_in(dir.path()), 0u);
}

TEST(SafetensorsWriter, MissingDirectoryNamesPathAndReason) {
  const TempDir dir;
  const auto caught = catch_error([&] { SafetensorsWriter(dir.path() / "no/such/x", {{"a", TensorType::kU8, {1}}}); });
  EXPECT_EQ(caught.kind, ErrorKind::kResource);
  EXPECT_THAT(caught.message, AllOf(HasSubstr("no/such/x"), HasSubstr("No such file or directory")));
}

// A file size limit makes the system refuse a write in the middle, as a full disk does.
TEST(SafetensorsWriter, AWriteTheSystemRefusesIsReportedAndCleanedUp) {
  const TempDir dir;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1u << 20, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto caught = catch_error([&] {
    SafetensorsWriter writer(dir.path() / "big", {{"a", TensorType::kU8, {8 << 20}}});
    writer.write(pattern(8u << 20, 0));
    writer.finish();
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(caught.kind, ErrorKind::kResource);
  EXPECT_THAT(caught.message,
              AllOf(HasSubstr("big"), HasSubstr("cannot write after 1048576 bytes"), HasSubstr("File too large")));
  EXPECT_EQ(files_in(dir.path()), 0u);
}

}  // namespace
}  // namespace fairway::formats
