// What tests of whole attention layers share: rows of a decode step, each the next position of a sequence of its own,
// their cache, and the tables of their rotation.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "codec/float8.h"
#include "codec/half.h"
#include "kernels/common/cuda/device_array.cuh"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/common/cuda/pass.cuh"
#include "kernels/rope/rope.h"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {

class DecodeRows {
 public:
  // Row r is position of_rows[r] of sequence count - 1 - r, or of sequence -1 if the position is negative. The cache
  // has `elems` elements a position: random ones before the rows' positions, NaNs elsewhere.
  DecodeRows(const std::vector<int>& of_rows, CacheType cache_type, int elems, int rope, Random& random)
      : positions(of_rows),
        type(cache_type),
        row_elems(elems),
        context(std::max(1, *std::max_element(of_rows.begin(), of_rows.end()) + 3)),
        table(grown(rope, *std::max_element(of_rows.begin(), of_rows.end()) + 4)),
        cache_bytes(filled(random)),
        cos(std::vector<float>(table.cos_row(0), table.cos_row(0) + context * rope / 2)),
        sin(std::vector<float>(table.sin_row(0), table.sin_row(0) + context * rope / 2)),
        sequence_device(sequences()),
        position_device(of_rows),
        cache_device(cache_bytes) {}

  int count() const { return static_cast<int>(positions.size()); }
  bool has_sequence(int row) const { return positions[static_cast<std::size_t>(row)] >= 0; }
  PassRows rows() const { return {sequence_device.get(), position_device.get(), count()}; }
  LayerCache cache() const { return {cache_device.get(), type, row_elems, context}; }

  // Byte of an element of a row's sequence.
  std::size_t cache_at(int row, int position, int i = 0) const {
    return ((static_cast<std::size_t>(sequence(row)) * context + position) * row_elems + i) * elem();
  }
  float value(const std::vector<std::uint8_t>& bytes, std::size_t at) const {
    return type == CacheType::kHalf ? codec::float_from_half(static_cast<HalfBits>(bytes[at] | bytes[at + 1] << 8))
                                    : codec::float_from_e4m3(bytes[at]);
  }

  // The first `width` values of the rows that have a sequence, of rows `ld` apart.
  std::vector<float> stored(const std::vector<float>& all, int width, int ld) const {
    std::vector<float> kept;
    for (int r = 0; r < count(); ++r) {
      if (!has_sequence(r)) continue;
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(r) * ld;
      kept.insert(kept.end(), from, from + width);
    }
    return kept;
  }

  // Only the rows' own positions were written, with expected_row(r); unit: elements that an error is relative to.
  template <class ExpectedRow>
  void check_cache(const std::string& what, int unit, const ExpectedRow& expected_row) const {
    const std::vector<std::uint8_t> bytes = cache_device.values();
    std::vector<std::uint8_t> others = bytes;
    std::vector<float> expected, found;
    for (int r = 0; r < count(); ++r) {
      if (!has_sequence(r)) continue;
      const std::vector<float> row = expected_row(r);
      ASSERT_EQ(row.size(), static_cast<std::size_t>(row_elems));
      expected.insert(expected.end(), row.begin(), row.end());
      const std::size_t at = cache_at(r, positions[static_cast<std::size_t>(r)]), size = row.size() * elem();
      for (std::size_t i = 0; i < size; i += elem()) found.push_back(value(bytes, at + i));
      std::copy_n(cache_bytes.begin() + static_cast<std::ptrdiff_t>(at), size,
                  others.begin() + static_cast<std::ptrdiff_t>(at));
    }
    EXPECT_EQ(others, cache_bytes) << what << ": elsewhere in the cache";
    const bool half = type == CacheType::kHalf;
    EXPECT_EQ(verify::compare(expected, found, unit,
                              {.absolute = half ? 1e-6 : 0x1p-10, .relative = (half ? 0x1p-11 : 0x1p-4) + 1e-5}),
              "")
        << what << ": new rows of the cache";
  }

  std::vector<int> positions;
  CacheType type;
  int row_elems, context;
  RopeTable table;
  std::vector<std::uint8_t> cache_bytes;  // before the step
  DeviceArray<float> cos, sin;
  DeviceArray<int> sequence_device, position_device;
  DeviceArray<std::uint8_t> cache_device;

 private:
  static RopeTable grown(int dim, int count) {
    RopeTable grown_table(dim, 10000.0f);
    grown_table.grow(count);
    return grown_table;
  }
  std::size_t elem() const { return static_cast<std::size_t>(cache_type_bytes(type)); }
  int sequence(int row) const { return has_sequence(row) ? count() - 1 - row : -1; }
  std::vector<int> sequences() const {
    std::vector<int> all;
    for (int r = 0; r < count(); ++r) all.push_back(sequence(r));
    return all;
  }
  std::vector<std::uint8_t> filled(Random& random) const {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count()) * context * row_elems * elem(), 0xFF);
    for (int r = 0; r < count(); ++r) {
      if (!has_sequence(r)) continue;
      for (int i = 0; i < positions[static_cast<std::size_t>(r)] * row_elems; ++i) {
        const HalfBits half = codec::half_from_float(random.normal());
        const std::size_t at = cache_at(r, 0, i);
        if (type == CacheType::kHalf) {
          bytes[at] = static_cast<std::uint8_t>(half & 255), bytes[at + 1] = static_cast<std::uint8_t>(half >> 8);
        } else {
          bytes[at] = static_cast<std::uint8_t>(random.below(120) | random.below(2) << 7);
          if ((bytes[at] & 127) > 0x40) bytes[at] ^= 0x40;  // at most 2
        }
      }
    }
    return bytes;
  }
};

}  // namespace fairway::kernels::cuda::check
