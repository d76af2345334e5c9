// Random numbers of the device are the host's, in the order they were asked for.
#include "model/device_random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "codec/half.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/random_values.h"

namespace fairway::model {
namespace {

std::vector<std::uint8_t> host_part(const RandomPart& part) {
  std::vector<std::uint8_t> bytes(part.bytes());
  for (std::size_t i = 0; i < part.count; ++i) {
    if (part.kind == RandomPart::Kind::kWords) {
      const std::uint32_t word = kernels::random_word(part.seed, part.first + i);
      std::memcpy(&bytes[4 * i], &word, 4);
    } else {
      const float value = kernels::random_value(part.seed, part.first + i, part.deviation);
      const std::uint16_t bits =
          part.kind == RandomPart::Kind::kHalves ? codec::half_from_float(value) : codec::bfloat_from_float(value);
      std::memcpy(&bytes[2 * i], &bits, 2);
    }
  }
  return bytes;
}

const std::size_t kSome = kernels::cuda::check::by_size<std::size_t>(DeviceRandom::kPartBytes / 4, 3001);

TEST(GpuDeviceRandom, GivesTheHostsNumbersInOrder) {
  using Kind = RandomPart::Kind;
  std::vector<RandomPart> parts;
  for (std::uint64_t i = 0; i < 3; ++i) {
    parts.push_back({Kind::kWords, 0, 7, i * kSome, kSome});
    parts.push_back({Kind::kHalves, 0.02f, 8 + i, 5, kSome - 1});
    parts.push_back({Kind::kBfloats, 1.0f, 1ull << 63, 0, 1 + i});
    parts.push_back({Kind::kHalves, 1e-6f, 9, i, 100});  // subnormal halves
  }
  DeviceRandom random(0);
  std::size_t asked = 0;
  for (const RandomPart& part : parts) {
    while (asked < parts.size() && !random.full()) random.ask(parts[asked++]);
    const std::span<const std::uint8_t> made = random.take();
    const std::vector<std::uint8_t> expected = host_part(part);
    EXPECT_TRUE(std::equal(made.begin(), made.end(), expected.begin(), expected.end()))
        << part.seed << " " << part.count;
  }
}

TEST(GpuDeviceRandom, LimitsAreErrors) {
  DeviceRandom random(0);
  test::expect_error(ErrorKind::kUsage, {"none"}, [&] { random.take(); });
  test::expect_error(ErrorKind::kUsage, {"0 bytes"}, [&] { random.ask({}); });
  const std::size_t too_many = DeviceRandom::kPartBytes / 4 + 1;
  test::expect_error(ErrorKind::kUsage, {"8388612"}, [&] {
    random.ask({RandomPart::Kind::kWords, 0, 1, 0, too_many});
  });
  for (std::size_t i = 0; i < DeviceRandom::kAhead; ++i) random.ask({RandomPart::Kind::kWords, 0, 1, 0, 1});
  test::expect_error(ErrorKind::kUsage, {"4 parts"}, [&] { random.ask({RandomPart::Kind::kWords, 0, 1, 0, 1}); });
}

}  // namespace
}  // namespace fairway::model
