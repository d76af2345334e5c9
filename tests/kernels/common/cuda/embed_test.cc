// Embedding rows are the table's, bit for bit; unknown ids give NaN.
#include "kernels/common/cuda/embed.cuh"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/device_values.cuh"

namespace fairway::kernels::cuda::check {
namespace {

void check_embed(DenseType type, int hidden, int ldx, std::size_t shift) {
  constexpr int kVocab = 11;
  Random random(static_cast<std::uint64_t>(hidden));
  const StoredMatrix table(random_floats(random, static_cast<std::size_t>(kVocab) * hidden), type, shift);
  const std::vector<int> ids{3, 0, 10, -1, 3, 11, 2147483647, -2147483647 - 1, 7};
  const DeviceValues<unsigned char> table_device(table.bytes);
  const DeviceValues<int> ids_device(ids);
  const DeviceValues<float> x(ids.size() * static_cast<std::size_t>(ldx));
  embed({table_device.get() + shift, type, kVocab, hidden}, ids_device.get(), static_cast<int>(ids.size()), x.get(),
        ldx, nullptr);
  const std::vector<float> rows = x.download();
  int wrong = 0;
  for (std::size_t r = 0; r < ids.size(); ++r) {
    const bool known = ids[r] >= 0 && ids[r] < kVocab;
    for (int i = 0; i < ldx; ++i) {
      const float v = rows[r * static_cast<std::size_t>(ldx) + i];
      if (i >= hidden || !known) {
        wrong += !std::isnan(v);  // poison behind the row is NaN too
      } else {
        wrong += v != table.values[static_cast<std::size_t>(ids[r]) * hidden + i];
      }
    }
  }
  EXPECT_EQ(wrong, 0) << fmt::format("type {}, hidden {}, stride {}, shift {}", static_cast<int>(type), hidden, ldx,
                                     shift);
}

TEST(GpuEmbed, RowsAreTheTables) {
  for (const DenseType type : kDenseTypes) {
    check_embed(type, 384, 384, 0);
    check_embed(type, 384, 388, 0);
    check_embed(type, 384, 384, 2);
    check_embed(type, 1, 1, 0);
    check_embed(type, 37, 40, 6);
    check_embed(type, 2056, 2064, 0);
  }
}

TEST(CudaEmbed, NonsenseIsRefused) {
  test::expect_error(ErrorKind::kUsage, {"embed", "0 rows"}, [] {
    embed({nullptr, DenseType::kF32, 8, 8}, nullptr, 0, nullptr, 8, nullptr);
  });
  test::expect_error(ErrorKind::kUsage, {"stride 7"}, [] {
    embed({nullptr, DenseType::kF32, 8, 8}, nullptr, 1, nullptr, 7, nullptr);
  });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
