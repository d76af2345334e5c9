// Uploads arrive byte for byte: from a mapped file, in any number of chunks, at any offset.
#include "backend/cuda/uploader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/expect_error.h"
#include "backend/cuda/stream.h"
#include "formats/mapped_file.h"

namespace fairway::backend {
namespace {

constexpr std::uint8_t kPoison = 0xA5;
constexpr std::size_t kGuardBytes = 1000;

std::vector<std::uint8_t> random_bytes(std::size_t count, unsigned seed) {
  std::vector<std::uint8_t> bytes(count);
  std::mt19937_64 random(seed);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 56);
  return bytes;
}

// Device memory with poisoned bytes on both sides of a range.
class GuardedRange {
 public:
  GuardedRange(CudaStream& stream, std::size_t bytes)
      : stream_(stream), arena_(0, DeviceArena::rounded(bytes + 2 * kGuardBytes)), bytes_(bytes) {
    all_ = arena_.alloc<std::uint8_t>(bytes + 2 * kGuardBytes, "guarded range");
    stream_.fill(all_, kPoison, bytes + 2 * kGuardBytes);
    stream_.wait();
  }
  std::uint8_t* data() { return all_ + kGuardBytes; }

  void expect(std::span<const std::uint8_t> expected) {
    std::vector<std::uint8_t> found(bytes_ + 2 * kGuardBytes);
    stream_.copy_to_host(found.data(), all_, found.size());
    stream_.wait();
    const auto inner = found.begin() + kGuardBytes;
    const auto end = inner + static_cast<std::ptrdiff_t>(bytes_);
    const auto wrong = std::mismatch(expected.begin(), expected.end(), inner, end);
    EXPECT_TRUE(wrong.first == expected.end()) << "byte " << wrong.first - expected.begin() << " of " << bytes_;
    const auto is_poison = [](std::uint8_t byte) { return byte == kPoison; };
    EXPECT_TRUE(std::all_of(found.begin(), inner, is_poison)) << "bytes before the range were written";
    EXPECT_TRUE(std::all_of(end, found.end(), is_poison)) << "bytes behind the range were written";
  }

 private:
  CudaStream& stream_;
  DeviceArena arena_;
  std::size_t bytes_;
  std::uint8_t* all_ = nullptr;
};

TEST(GpuUploader, ARegionOfAMappedFileArrivesByteForByte) {
  constexpr std::size_t kOffset = 12'345;  // as tensors in a file lie: no alignment
  constexpr std::size_t kBytes = (std::size_t{65} << 20) + 777;
  constexpr unsigned kSeed = 11;
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "fairway_upload_test.bin";
  const std::vector<std::uint8_t> content = random_bytes(kOffset + kBytes + 99, kSeed);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
  {
    const formats::MappedFile file(path);
    ASSERT_EQ(file.bytes().size(), content.size());
    CudaStream stream(0);
    GuardedRange range(stream, kBytes);
    Uploader uploader(0);
    const auto begin = std::chrono::steady_clock::now();
    uploader.upload(range.data(), file.bytes().subspan(kOffset, kBytes));
    uploader.finish();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_EQ(uploader.uploaded_bytes(), kBytes);
    range.expect(std::span(content).subspan(kOffset, kBytes));
    std::printf("upload of %zu bytes from a mapped file: %.1f ms, %.2f GB/s\n", kBytes, 1e3 * seconds,
                1e-9 * static_cast<double>(kBytes) / seconds);
  }
  std::filesystem::remove(path);
}

TEST(GpuUploader, EveryNumberOfChunksAndRemainder) {
  constexpr std::size_t kChunk = 4096;
  CudaStream stream(0);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, kChunk - 1, kChunk, kChunk + 1, 2 * kChunk,
                                  2 * kChunk + 1, 5 * kChunk, 101 * kChunk + 17}) {
    SCOPED_TRACE(std::to_string(bytes) + " bytes");
    const std::vector<std::uint8_t> content = random_bytes(bytes, static_cast<unsigned>(bytes));
    GuardedRange range(stream, bytes);
    Uploader uploader(0, kChunk);
    uploader.upload(range.data(), content);
    uploader.finish();
    range.expect(content);
  }
}

// Many small tensors with one uploader, and a stream that waits for them instead of the host.
TEST(GpuUploader, UploadsInARowAreSeenByAStreamThatWaits) {
  constexpr std::size_t kParts = 300, kPartBytes = 1001;
  CudaStream stream(0);
  const std::vector<std::uint8_t> content = random_bytes(kParts * kPartBytes, 5);
  GuardedRange range(stream, content.size());
  Uploader uploader(0, 4096);
  for (std::size_t part = 0; part < kParts; ++part) {
    uploader.upload(range.data() + part * kPartBytes, std::span(content).subspan(part * kPartBytes, kPartBytes));
  }
  stream.wait_for(uploader.arrived());
  range.expect(content);
}

TEST(GpuUploader, ChunksOfNothingAreAnError) {
  test::expect_error(ErrorKind::kUsage, {"0 bytes"}, [] { const Uploader uploader(0, 0); });
}

}  // namespace
}  // namespace fairway::backend
