// Grouped-query attention of decode steps, from the projections on, against double precision: in one launch, and in as
// many as longer contexts take.
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "codec/float8.h"
#include "codec/half.h"
#include "kernels/common/cuda/device_array.cuh"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kEps = 1e-6f;
// Queries are halves where there are several launches, results always: 2^-12 relative each on average.
constexpr double kBound = 2e-3;

struct GqaShape {
  const char* name;
  int heads, kv_heads, dim, rope;
  bool norm;
};
constexpr GqaShape kQwen{"Qwen", 32, 4, 128, 128, true};
constexpr GqaShape kPart{"partly rotated", 6, 2, 80, 48, true}, kPlain{"without norms", 4, 4, 16, 16, false};
#ifdef FAIRWAY_CUDA_EMULATED
constexpr GqaShape kLarge{"a sixteenth of Qwen", 4, 2, 128, 128, true};
#else
constexpr GqaShape kLarge = kQwen;
#endif

RopeTable grown(int dim, int positions) {
  RopeTable table(dim, 10000.0f);
  table.grow(positions);
  return table;
}

class Step {
 public:
  // Row r is position positions[r] of sequence count - 1 - r, or of sequence -1 if the position is negative.
  Step(const GqaShape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout, std::uint64_t seed)
      : s_(shape),
        positions_(positions),
        type_(type),
        layout_(layout),
        random_(seed),
        table_(grown(shape.rope, *std::max_element(positions.begin(), positions.end()) + 4)),
        rows_(static_cast<int>(positions.size())),
        context_(std::max(1, *std::max_element(positions.begin(), positions.end()) + 3)),
        kv_width_(shape.kv_heads * shape.dim),
        ldq_(shape.heads * shape.dim + 1),
        ldkv_(kv_width_ + 3),
        q_(random_floats(random_, static_cast<std::size_t>(rows_) * ldq_)),
        k_(random_floats(random_, static_cast<std::size_t>(rows_) * ldkv_)),
        v_(random_floats(random_, static_cast<std::size_t>(rows_) * ldkv_, 2.0f)),
        q_norm_(random_floats(random_, static_cast<std::size_t>(shape.dim))),
        k_norm_(random_floats(random_, static_cast<std::size_t>(shape.dim))),
        cache_bytes_(cache()),
        q_device_(q_),
        k_device_(k_),
        v_device_(v_),
        q_norm_device_(q_norm_),
        k_norm_device_(k_norm_),
        cos_(table_.cos_row(0), table_.cos_row(0) + context_ * shape.rope / 2),
        sin_(table_.sin_row(0), table_.sin_row(0) + context_ * shape.rope / 2),
        cos_device_(cos_),
        sin_device_(sin_),
        sequence_device_(sequences()),
        position_device_(positions),
        cache_device_(cache_bytes_),
        rotated_(static_cast<std::size_t>(rows_) * width()),
        out_(static_cast<std::size_t>(rows_) * width()) {}

  GqaAttention call(int max_context) {
    GqaAttention c{};
    c.prepare = {q_device_.get(),
                 k_device_.get(),
                 v_device_.get(),
                 ldq_,
                 ldkv_,
                 ldkv_,
                 s_.norm ? q_norm_device_.get() : nullptr,
                 s_.norm ? k_norm_device_.get() : nullptr,
                 kEps,
                 s_.heads,
                 s_.kv_heads,
                 s_.dim,
                 {cos_device_.get(), sin_device_.get(), context_, s_.rope, layout_},
                 {sequence_device_.get(), position_device_.get(), rows_},
                 {cache_device_.get(), type_, 2 * kv_width_, context_},
                 rotated_.get()};
    AttendCall& a = c.attend;
    a.q = rotated_.get();
    a.cache = c.prepare.cache;
    a.heads = s_.heads, a.kv_heads = s_.kv_heads, a.key_dim = a.value_dim = s_.dim;
    a.key_stride = a.value_stride = s_.dim, a.value_offset = kv_width_;
    a.rows = c.prepare.rows;
    a.max_context = max_context;
    a.fresh = 1;
    a.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s_.dim)));
    a.out = out_.get();
    return c;
  }

  // Runs twice, and compares.
  template <class Run>
  void check(const std::string& what, int max_context, const Run& run) {
    const GqaAttention c = call(max_context);
    DeviceArray<unsigned char> workspace(attend_workspace_bytes(c.attend));
    std::vector<float> first;
    for (const int poison : {0xFF, 0x7F}) {
      cache_device_.set(cache_bytes_);
      workspace.fill(poison), out_.fill(poison), rotated_.fill(poison);
      run(c, workspace.get());
      std::vector<float> all;
      for (const __half v : out_.values()) all.push_back(codec::float_from_half(__half_as_ushort(v)));
      if (!first.empty()) {
        EXPECT_EQ(verify::compare_exact(first, stored(all)), "") << what << ": two runs";
        continue;
      }
      first = stored(all);
      check_cache(what);
      const std::vector<float> expected = reference();
      EXPECT_EQ(verify::compare(expected, first, s_.dim, {.row_relative = kBound}), "") << name(what);
      fmt::print("{}: {:.1e}\n", name(what), verify::worst_row_error(expected, first, s_.dim));
      for (int r = 0; r < rows_; ++r) {
        for (int i = 0; i < width(); ++i) {
          EXPECT_TRUE(positions_[r] >= 0 || std::isfinite(all[static_cast<std::size_t>(r * width() + i)]))
              << what << ": of no sequence";
        }
      }
    }
  }

 private:
  std::string name(const std::string& what) const {
    return fmt::format("{} {}, {} rows, position {}, cache {}, layout {}", s_.name, what, rows_, positions_[0],
                       static_cast<int>(type_), static_cast<int>(layout_));
  }
  int width() const { return s_.heads * s_.dim; }
  int sequence(int row) const { return positions_[row] < 0 ? -1 : rows_ - 1 - row; }
  std::vector<int> sequences() const {
    std::vector<int> all;
    for (int r = 0; r < rows_; ++r) all.push_back(sequence(r));
    return all;
  }
  std::size_t elem() const { return static_cast<std::size_t>(cache_type_bytes(type_)); }
  std::size_t cache_at(int row, int position) const {
    return (static_cast<std::size_t>(sequence(row)) * context_ + position) * 2 * kv_width_ * elem();
  }

  // NaNs, but for the positions before the rows'.
  std::vector<std::uint8_t> cache() {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(rows_) * context_ * 2 * kv_width_ * elem(), 0xFF);
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      for (int i = 0; i < positions_[r] * 2 * kv_width_; ++i) {
        const HalfBits half = codec::half_from_float(random_.normal());
        const std::size_t at = cache_at(r, 0) + static_cast<std::size_t>(i) * elem();
        if (type_ == CacheType::kHalf) {
          bytes[at] = static_cast<std::uint8_t>(half & 255), bytes[at + 1] = static_cast<std::uint8_t>(half >> 8);
        } else {
          bytes[at] = static_cast<std::uint8_t>(random_.below(0x40) | random_.below(2) << 7);  // at most 2
        }
      }
    }
    return bytes;
  }
  float value(const std::vector<std::uint8_t>& bytes, std::size_t at) const {
    return type_ == CacheType::kHalf ? codec::float_from_half(static_cast<HalfBits>(bytes[at] | bytes[at + 1] << 8))
                                     : codec::float_from_e4m3(bytes[at]);
  }
  std::vector<float> stored(const std::vector<float>& all) const {
    std::vector<float> kept;
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(r) * width();
      kept.insert(kept.end(), from, from + width());
    }
    return kept;
  }
  std::vector<float> head(const float* from, const std::vector<float>& weight, int position) const {
    std::vector<float> out(from, from + s_.dim);
    if (s_.norm) kernels::rms_norm(out.data(), s_.dim, weight.data(), kEps, 1, s_.dim, out.data(), s_.dim);
    apply_rope(out.data(), table_, position, layout_);
    return out;
  }

  // Only the rows' own positions were written, with what the CPU has there.
  void check_cache(const std::string& what) {
    const std::vector<std::uint8_t> bytes = cache_device_.values();
    std::vector<std::uint8_t> others = bytes;
    std::vector<float> expected, found;
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      for (int h = 0; h < s_.kv_heads; ++h) {
        const std::vector<float> key = head(k_.data() + r * ldkv_ + h * s_.dim, k_norm_, positions_[r]);
        expected.insert(expected.end(), key.begin(), key.end());
      }
      expected.insert(expected.end(), v_.begin() + r * ldkv_, v_.begin() + r * ldkv_ + kv_width_);
      const std::size_t at = cache_at(r, positions_[r]), size = 2 * static_cast<std::size_t>(kv_width_) * elem();
      for (std::size_t i = 0; i < size; i += elem()) found.push_back(value(bytes, at + i));
      std::copy_n(cache_bytes_.begin() + static_cast<std::ptrdiff_t>(at), size,
                  others.begin() + static_cast<std::ptrdiff_t>(at));
    }
    EXPECT_EQ(others, cache_bytes_) << what << ": elsewhere in the cache";
    const bool half = type_ == CacheType::kHalf;
    EXPECT_EQ(verify::compare(expected, found, s_.dim,
                              {.absolute = half ? 1e-6 : 0x1p-10, .relative = (half ? 0x1p-11 : 0x1p-4) + 1e-5}),
              "")
        << what << ": new rows of the cache";
  }

  // With the cache that the device has now.
  std::vector<float> reference() {
    const std::vector<std::uint8_t> bytes = cache_device_.values();
    std::vector<float> out;
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      for (int h = 0; h < s_.heads; ++h) {
        const std::vector<float> q = head(q_.data() + r * ldq_ + h * s_.dim, q_norm_, positions_[r]);
        const int kv_head = h / (s_.heads / s_.kv_heads);
        const auto cached = [&](int p, int i) {
          return value(bytes, cache_at(r, p) + static_cast<std::size_t>(kv_head * s_.dim + i) * elem());
        };
        std::vector<double> scores, sum(static_cast<std::size_t>(s_.dim), 0.0);
        for (int p = 0; p <= positions_[r]; ++p) {
          double dot = 0;
          for (int i = 0; i < s_.dim; ++i) dot += static_cast<double>(q[static_cast<std::size_t>(i)]) * cached(p, i);
          scores.push_back(dot / std::sqrt(static_cast<double>(s_.dim)));
        }
        const double most = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (int p = 0; p <= positions_[r]; ++p) {
          const double e = std::exp(scores[static_cast<std::size_t>(p)] - most);
          total += e;
          for (int i = 0; i < s_.dim; ++i) sum[static_cast<std::size_t>(i)] += e * cached(p, kv_width_ + i);
        }
        for (const double v : sum) out.push_back(static_cast<float>(v / total));
      }
    }
    return out;
  }

  GqaShape s_;
  std::vector<int> positions_;
  CacheType type_;
  RopeLayout layout_;
  Random random_;
  RopeTable table_;
  int rows_, context_, kv_width_;
  int ldq_, ldkv_;
  std::vector<float> q_, k_, v_, q_norm_, k_norm_;
  std::vector<std::uint8_t> cache_bytes_;
  DeviceArray<float> q_device_, k_device_, v_device_, q_norm_device_, k_norm_device_;
  std::vector<float> cos_, sin_;
  DeviceArray<float> cos_device_, sin_device_;
  DeviceArray<int> sequence_device_, position_device_;
  DeviceArray<std::uint8_t> cache_device_;
  DeviceArray<__half> rotated_, out_;
};

void check_step(const GqaShape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout,
                std::uint64_t seed) {
  Step step(shape, positions, type, layout, seed);
  const int longest = *std::max_element(positions.begin(), positions.end()) + 1;
  step.check("one launch", longest, [](const GqaAttention& c, void*) {
    ASSERT_TRUE(gqa_decode_fits(c));
    gqa_decode(c, nullptr);
  });
  // Rows of no sequence have no positions that a launch of its own could read.
  if (*std::min_element(positions.begin(), positions.end()) < 0) return;
  step.check("as it chooses", longest,
             [](const GqaAttention& c, void* workspace) { gqa_attention(c, workspace, nullptr); });
  step.check("several launches", std::max(longest, 8192),
             [](const GqaAttention& c, void* workspace) { gqa_attention(c, workspace, nullptr); });
}

constexpr CacheType kHalf = CacheType::kHalf, kE4m3 = CacheType::kE4m3;
constexpr RopeLayout kAdjacent = RopeLayout::kInterleaved, kHalves = RopeLayout::kHalves;

TEST(GpuGqaDecode, OfOneSequence) {
  check_step(kLarge, {0}, kHalf, kHalves, 1);
  check_step(kLarge, {131}, kE4m3, kAdjacent, 2);
  check_step(kPart, {1}, kE4m3, kHalves, 3);
  check_step(kPart, {64}, kHalf, kAdjacent, 4);
  for (const int position : {15, 16, 31, 32, 33, 127, 300}) check_step(kPlain, {position}, kHalf, kHalves, 5);
  check_step(kPlain, {63}, kE4m3, kHalves, 6);
}

TEST(GpuGqaDecode, OfSeveralSequences) {
  check_step(kLarge, {5, 90, 0, 17}, kHalf, kHalves, 10);
  check_step(kPart, {130, 64, 63}, kE4m3, kHalves, 11);
  check_step(kPlain, {3, 0, 70, 12, 1, 5, 9, 40, 2}, kHalf, kHalves, 12);
  check_step(kPart, {4, -1, 9}, kHalf, kAdjacent, 13);
}

#ifndef FAIRWAY_CUDA_EMULATED
TEST(GpuGqaDecode, OfLongSequencesFull) {
  check_step(kQwen, {1023}, kHalf, kHalves, 20);
  check_step(kQwen, {5000}, kE4m3, kHalves, 21);
  check_step(kQwen, {700, 3, 2100, 64}, kHalf, kHalves, 22);
}
#endif

}  // namespace
}  // namespace fairway::kernels::cuda::check
