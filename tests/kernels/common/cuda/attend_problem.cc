// Making random attention problems, and their outputs by the definition.
#include "kernels/common/cuda/attend_problem.cuh"

#include <cuda_fp16.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/float8.h"
#include "codec/half.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/moe_swiglu/cuda/problem.cuh"

namespace fairway::kernels::cuda::check {
namespace {

__half as_half(float v) {
  return __half(__half_raw{codec::half_from_float(v)});
}

}  // namespace

std::uint8_t nearest_e4m3(float v) {
  static const std::vector<float> values = [] {
    std::vector<float> all;
    for (int i = 0; i < 127; ++i) all.push_back(codec::float_from_e4m3(static_cast<std::uint8_t>(i)));
    return all;
  }();
  const float size = std::abs(v);
  auto at = std::lower_bound(values.begin(), values.end(), size);
  if (at == values.end() || (at != values.begin() && size - at[-1] < *at - size)) --at;
  return static_cast<std::uint8_t>((at - values.begin()) | (v < 0 ? 128 : 0));
}

AttendProblem::AttendProblem(const AttendCase& shape, std::uint64_t seed) : shape_(shape) {
  Random random(seed);
  const int rows = static_cast<int>(shape.positions.size());
  const int longest = *std::max_element(shape.positions.begin(), shape.positions.end()) + 1;
  const int sequences = shape.one_sequence ? 2 : rows + 1, sequence_rows = longest + 3;
  sequences_.assign(static_cast<std::size_t>(rows), 1);
  if (!shape.one_sequence) {
    std::iota(sequences_.begin(), sequences_.end(), 0);
    for (int r = 0; r < rows; ++r) std::swap(sequences_[r], sequences_[r + random.below(rows - r)]);
  }

  const int key_elems = shape.kv_heads * shape.key_dim;
  const int row_elems =
      (shape.value_in_key ? key_elems : key_elems + shape.kv_heads * shape.value_dim) + shape.unused_elems;
  const auto elems = static_cast<std::size_t>(sequences) * sequence_rows * row_elems;
  cache_.assign(elems, std::nanf(""));
  const int bytes = cache_type_bytes(shape.type);
  std::vector<unsigned char> stored(elems * bytes, 0xFF);  // NaN in both types
  std::vector<int> filled(static_cast<std::size_t>(sequences), 0);
  for (int r = 0; r < rows; ++r) filled[sequences_[r]] = std::max(filled[sequences_[r]], shape.positions[r] + 1);
  for (int s = 0; s < sequences; ++s) {
    const std::size_t begin = static_cast<std::size_t>(s) * sequence_rows * row_elems;
    for (std::size_t i = begin; i < begin + static_cast<std::size_t>(filled[s]) * row_elems; ++i) {
      const float v = random.normal();
      if (shape.type == CacheType::kHalf) {
        const std::uint16_t bits = codec::half_from_float(v);
        stored[2 * i] = static_cast<unsigned char>(bits & 255),
                   stored[2 * i + 1] = static_cast<unsigned char>(bits >> 8);
        cache_[i] = codec::float_from_half(bits);
      } else {
        stored[i] = nearest_e4m3(v);
        cache_[i] = codec::float_from_e4m3(stored[i]);
      }
    }
  }
  std::vector<__half> q;
  for (int i = 0; i < rows * shape.heads * shape.key_dim; ++i) {
    q.push_back(as_half(random.normal() * shape.size));
    q_.push_back(codec::float_from_half(__half_as_ushort(q.back())));
  }
  q_device_ = std::make_unique<DeviceArray<__half>>(q);
  cache_device_ = std::make_unique<DeviceArray<unsigned char>>(stored);
  sequence_device_ = std::make_unique<DeviceArray<int>>(sequences_);
  position_device_ = std::make_unique<DeviceArray<int>>(shape.positions);
  out_ = std::make_unique<DeviceArray<__half>>(static_cast<std::size_t>(rows) * shape.heads * shape.value_dim);
  call_.q = q_device_->get();
  call_.cache = {cache_device_->get(), shape.type, row_elems, sequence_rows};
  call_.heads = shape.heads, call_.kv_heads = shape.kv_heads;
  call_.key_dim = shape.key_dim, call_.value_dim = shape.value_dim;
  call_.key_offset = 0, call_.key_stride = shape.key_dim;
  call_.value_offset = shape.value_in_key ? 0 : key_elems;
  call_.value_stride = shape.value_in_key ? shape.key_dim : shape.value_dim;
  call_.rows = {sequence_device_->get(), position_device_->get(), rows};
  call_.one_sequence = shape.one_sequence;
  call_.max_context = shape.max_context > 0 ? shape.max_context : longest;
  call_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.key_dim)));
  call_.fresh = shape.fresh;
  call_.out = out_->get();
  workspace_bytes_ = attend_workspace_bytes(call_);
  workspace_ = std::make_unique<DeviceArray<unsigned char>>(workspace_bytes_);
}

void AttendProblem::set_positions(const std::vector<int>& positions) {
  shape_.positions = positions;
  position_device_->set(positions);
}

std::vector<float> AttendProblem::run(int poison) {
  out_->fill(poison);
  workspace_->fill(poison);
  attend(call_, workspace(), nullptr);
  return output();
}

std::vector<float> AttendProblem::output() const {
  std::vector<float> floats;
  for (const __half v : out_->values()) floats.push_back(codec::float_from_half(__half_as_ushort(v)));
  return floats;
}

void AttendProblem::reference_of(int row, int head, float* out) const {
  const int g = head / (shape_.heads / shape_.kv_heads), positions = shape_.positions[row] + 1;
  const float* const q = q_.data() + (static_cast<std::size_t>(row) * shape_.heads + head) * shape_.key_dim;
  const float* const cache =
      cache_.data() + static_cast<std::size_t>(sequences_[row]) * call_.cache.sequence_rows * call_.cache.row_elems;
  std::vector<double> p(static_cast<std::size_t>(positions)), sum(static_cast<std::size_t>(shape_.value_dim), 0.0);
  for (int t = 0; t < positions; ++t) {
    const float* const key =
        cache + static_cast<std::size_t>(t) * call_.cache.row_elems + call_.key_offset + g * call_.key_stride;
    for (int i = 0; i < shape_.key_dim; ++i) p[t] += static_cast<double>(q[i]) * key[i];
    p[t] *= static_cast<double>(call_.scale);
  }
  const double most = *std::max_element(p.begin(), p.end());
  double total = 0;
  for (int t = 0; t < positions; ++t) {
    const double weight = std::exp(p[t] - most);
    total += weight;
    const float* const value =
        cache + static_cast<std::size_t>(t) * call_.cache.row_elems + call_.value_offset + g * call_.value_stride;
    for (int i = 0; i < shape_.value_dim; ++i) sum[i] += weight * value[i];
  }
  for (int i = 0; i < shape_.value_dim; ++i) out[i] = static_cast<float>(sum[i] / total);
}

std::vector<float> AttendProblem::reference() const {
  const int rows = static_cast<int>(shape_.positions.size());
  std::vector<float> all(static_cast<std::size_t>(rows) * shape_.heads * shape_.value_dim);
  for (int i = 0; i < rows * shape_.heads; ++i) {
    reference_of(i / shape_.heads, i % shape_.heads, all.data() + static_cast<std::size_t>(i) * shape_.value_dim);
  }
  return all;
}

void check_attend(const AttendCase& shape, std::uint64_t seed, double bound) {
  AttendProblem problem(shape, seed);
  const std::vector<float> expected = problem.reference();
  std::vector<std::vector<float>> runs;
  for (const int poison : poisons()) runs.push_back(problem.run(poison));
  const std::vector<float>& actual = runs.front();
  const std::string what = fmt::format("{}, {}, {} rows, seed {}", shape.name,
                                       shape.type == CacheType::kHalf ? "half" : "E4M3", shape.positions.size(), seed);
  EXPECT_EQ(verify::compare(expected, actual, shape.value_dim, {.row_relative = bound}), "") << what;
  EXPECT_EQ(verify::compare_exact(actual, runs.back()), "") << what << ": two runs";
  fmt::print("{:<60} {:.1e}\n", what, verify::worst_row_error(expected, actual, shape.value_dim));
}

}  // namespace fairway::kernels::cuda::check
