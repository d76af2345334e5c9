// Random inputs for the tests of dense and attention kernels, in buffers of exactly the size a kernel may touch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/features.h"
#include "codec/half.h"
#include "common/machine.h"
#include "kernels/common/registry.h"
#include "kernels/dense_linear/dense_dot.h"

namespace fairway::test {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr double kEpsilon = 0x1p-24;  // largest relative rounding error of one fp32 operation

inline bool runs_here(const kernels::KernelRow& row) {
  return kernels::can_run(row, backend::cpu_info().features);
}

inline std::vector<float> gaussian(std::mt19937& random, std::size_t count, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// Whole numbers in [-limit, limit]: their products and short sums are exact in fp32, in any order.
inline std::vector<float> whole_numbers(std::mt19937& random, std::size_t count, int limit) {
  std::uniform_int_distribution<int> uniform(-limit, limit);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(uniform(random));
  return values;
}

// A stored dense matrix. The bytes end with the allocation, so that a sanitizer sees reads behind the last row, and
// start at an odd address, as they may in a mapped file.
class StoredMatrix {
 public:
  StoredMatrix(std::span<const float> values, kernels::DenseType type, int in, int out, const float* bias = nullptr)
      : bytes_(new std::uint8_t[1 + values.size() * static_cast<std::size_t>(kernels::dense_type_bytes(type))]) {
    std::uint8_t* p = bytes_.get() + 1;
    view_ = {p, type, in, out, bias};
    for (const float v : values) {
      const std::uint16_t half =
          type == kernels::DenseType::kF16 ? codec::half_from_float(v) : codec::bfloat_from_float(v);
      const std::size_t size = static_cast<std::size_t>(kernels::dense_type_bytes(type));
      if (type == kernels::DenseType::kF32) {
        std::memcpy(p, &v, size);
      } else {
        std::memcpy(p, &half, size);
      }
      p += size;
    }
  }
  const kernels::DenseMatrix& view() const { return view_; }

 private:
  std::unique_ptr<std::uint8_t[]> bytes_;
  kernels::DenseMatrix view_;
};

constexpr kernels::DenseType kDenseTypes[] = {kernels::DenseType::kF32, kernels::DenseType::kF16,
                                              kernels::DenseType::kBf16};

inline double norm(std::span<const float> values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

// Largest norm of the rows of a [*, columns] array.
inline double largest_row_norm(std::span<const float> values, std::size_t columns) {
  double largest = 0;
  for (std::size_t i = 0; i + columns <= values.size(); i += columns) {
    largest = std::max(largest, norm(values.subspan(i, columns)));
  }
  return largest;
}

inline double largest_magnitude(std::span<const float> values) {
  double largest = 0;
  for (const float v : values) largest = std::max(largest, std::fabs(static_cast<double>(v)));
  return largest;
}

}  // namespace fairway::test
