// Latent attention of decode steps, from the projections to what the output projection reads, against double precision:
// in one launch, and in as many as longer contexts take.
#include "kernels/attention_mla/cuda/mla_decode.cuh"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "codec/float8.h"
#include "codec/half.h"
#include "kernels/attention_mla/cuda/projection_problem.cuh"
#include "kernels/common/cuda/device_array.cuh"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kEps = 1e-6f;
constexpr Shape kGlm{"GLM", 20, 192, 64, 256, 512}, kDemo{"demo", 8, 64, 32, 64, 128};
constexpr Shape kOdd{"odd", 3, 80, 16, 48, 192}, kSmall{"small", 1, 16, 16, 16, 64};
constexpr Shape kManyHeads{"many heads", 20, 16, 16, 16, 64};
#ifdef FAIRWAY_CUDA_EMULATED
constexpr Shape kLarge{"two heads of GLM", 2, 192, 64, 256, 512};
#else
constexpr Shape kLarge = kGlm;
#endif
// Queries and results of the splits are halves, and what comes in between: 2^-12 relative each on average.
constexpr double kBound = 2e-3;

std::vector<float> normal(Random& random, std::size_t count, float size) {
  std::vector<float> values(count);
  for (float& v : values) v = size * random.normal();
  return values;
}

RopeTable grown(int dim, int positions) {
  RopeTable table(dim, 10000.0f);
  table.grow(positions);
  return table;
}

class Step {
 public:
  // Row r is position positions[r] of sequence count - 1 - r, or of sequence -1 if the position is negative.
  Step(const Shape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout, std::uint64_t seed)
      : s_(shape),
        positions_(positions),
        type_(type),
        layout_(layout),
        random_(seed),
        p_(shape, random_, 0.08f),
        table_(grown(shape.rope, *std::max_element(positions.begin(), positions.end()) + 4)),
        rows_(static_cast<int>(positions.size())),
        context_(std::max(1, *std::max_element(positions.begin(), positions.end()) + 3)),
        width_(shape.latent + shape.rope),
        ldq_(shape.heads * (shape.nope + shape.rope) + 8),
        ldkv_(width_ + 4),
        q_(normal(random_, static_cast<std::size_t>(rows_) * ldq_, 1.0f)),
        kv_(normal(random_, static_cast<std::size_t>(rows_) * ldkv_, 3.0f)),
        weight_(normal(random_, static_cast<std::size_t>(shape.latent), 0.7f)),
        cache_bytes_(cache()),
        q_device_(q_),
        kv_device_(kv_),
        weight_device_(weight_),
        cos_(table_.cos_row(0), table_.cos_row(0) + context_ * shape.rope / 2),
        sin_(table_.sin_row(0), table_.sin_row(0) + context_ * shape.rope / 2),
        cos_device_(cos_),
        sin_device_(sin_),
        sequence_device_(sequences()),
        position_device_(positions),
        cache_device_(cache_bytes_),
        nope_(static_cast<std::size_t>(rows_) * shape.heads * shape.nope),
        full_(static_cast<std::size_t>(rows_) * shape.heads * width_),
        mixed_(static_cast<std::size_t>(rows_) * shape.heads * shape.latent),
        out_(static_cast<std::size_t>(rows_) * ldo()) {}

  MlaAttention call(int max_context) {
    MlaAttention c{};
    c.prepare = {q_device_.get(),
                 ldq_,
                 kv_device_.get(),
                 ldkv_,
                 weight_device_.get(),
                 kEps,
                 s_.heads,
                 s_.nope,
                 s_.latent,
                 {cos_device_.get(), sin_device_.get(), context_, s_.rope, layout_},
                 {sequence_device_.get(), position_device_.get(), rows_},
                 {cache_device_.get(), type_, width_, context_},
                 nope_.get(),
                 full_.get()};
    c.up = p_.device();
    c.attend.q = full_.get();
    c.attend.cache = c.prepare.cache;
    c.attend.heads = s_.heads, c.attend.kv_heads = 1, c.attend.key_dim = width_, c.attend.value_dim = s_.latent;
    c.attend.rows = c.prepare.rows;
    c.attend.max_context = max_context;
    c.attend.fresh = 1;
    c.attend.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s_.nope + s_.rope)));
    c.attend.out = mixed_.get();
    c.out = out_.get(), c.ldo = ldo();
    return c;
  }

  // Runs twice, and compares.
  template <class Run>
  void check(const std::string& what, int max_context, const Run& run) {
    const MlaAttention c = call(max_context);
    DeviceArray<unsigned char> workspace(attend_workspace_bytes(c.attend));
    std::vector<float> first;
    for (const int poison : {0xFF, 0x7F}) {
      cache_device_.set(cache_bytes_);
      workspace.fill(poison), out_.fill(poison), nope_.fill(poison), full_.fill(poison), mixed_.fill(poison);
      run(c, workspace.get());
      const std::vector<float> all = to_floats(out_.values());
      if (!first.empty()) {
        EXPECT_EQ(verify::compare_exact(first, stored(all)), "") << what << ": two runs";
        continue;
      }
      first = stored(all);
      check_cache(what);
      const std::vector<float> expected = reference();
      EXPECT_EQ(verify::compare(expected, first, s_.v, {.row_relative = kBound}), "") << name(what);
      fmt::print("{}: {:.1e}\n", name(what), verify::worst_row_error(expected, first, s_.v));
      for (int r = 0; r < rows_; ++r) {
        for (int i = s_.heads * s_.v; i < ldo(); ++i) {
          EXPECT_TRUE(std::isnan(all[static_cast<std::size_t>(r * ldo() + i)])) << what << ": behind the heads";
        }
        if (positions_[r] >= 0) continue;
        for (int i = 0; i < s_.heads * s_.v; ++i) {
          EXPECT_TRUE(std::isfinite(all[static_cast<std::size_t>(r * ldo() + i)])) << what << ": of no sequence";
        }
      }
    }
  }

 private:
  std::string name(const std::string& what) const {
    return fmt::format("{} {}, {} rows, position {}, cache {}, layout {}", s_.name, what, rows_, positions_[0],
                       static_cast<int>(type_), static_cast<int>(layout_));
  }
  int ldo() const { return s_.heads * s_.v + 8; }
  int sequence(int row) const { return positions_[row] < 0 ? -1 : rows_ - 1 - row; }
  std::vector<int> sequences() const {
    std::vector<int> all;
    for (int r = 0; r < rows_; ++r) all.push_back(sequence(r));
    return all;
  }
  int elem() const { return cache_type_bytes(type_); }
  std::size_t cache_at(int row, int position) const {
    return (static_cast<std::size_t>(sequence(row)) * context_ + position) * width_ * elem();
  }

  // NaNs, but for the positions before the rows'.
  std::vector<std::uint8_t> cache() {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(rows_) * context_ * width_ * elem(), 0xFF);
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      for (int i = 0; i < positions_[r] * width_; ++i) {
        const std::uint16_t half = codec::half_from_float(random_.normal());
        const std::size_t at = cache_at(r, 0) + static_cast<std::size_t>(i * elem());
        if (type_ == CacheType::kHalf) {
          bytes[at] = static_cast<std::uint8_t>(half & 255), bytes[at + 1] = static_cast<std::uint8_t>(half >> 8);
        } else {
          bytes[at] = static_cast<std::uint8_t>(random_.below(120) | random_.below(2) << 7);
          if ((bytes[at] & 127) > 0x40) bytes[at] ^= 0x40;  // at most 2
        }
      }
    }
    return bytes;
  }
  float value(const std::vector<std::uint8_t>& bytes, std::size_t at) const {
    return type_ == CacheType::kHalf
               ? codec::float_from_half(static_cast<std::uint16_t>(bytes[at] | bytes[at + 1] << 8))
               : codec::float_from_e4m3(bytes[at]);
  }
  std::vector<float> stored(const std::vector<float>& all) const {
    std::vector<float> kept;
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(r) * ldo();
      kept.insert(kept.end(), from, from + s_.heads * s_.v);
    }
    return kept;
  }

  // Only the rows' own positions were written, with what the CPU has there.
  void check_cache(const std::string& what) {
    const std::vector<std::uint8_t> bytes = cache_device_.values();
    std::vector<std::uint8_t> others = bytes;
    std::vector<float> expected, found;
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      std::vector<float> row(kv_.begin() + r * ldkv_, kv_.begin() + r * ldkv_ + width_);
      kernels::rms_norm(row.data(), width_, weight_.data(), kEps, 1, s_.latent, row.data(), width_);
      apply_rope(row.data() + s_.latent, table_, positions_[r], layout_);
      const std::size_t at = cache_at(r, positions_[r]);
      for (int i = 0; i < width_; ++i) {
        expected.push_back(row[static_cast<std::size_t>(i)]);
        found.push_back(value(bytes, at + static_cast<std::size_t>(i * elem())));
      }
      const auto size = static_cast<std::ptrdiff_t>(width_) * elem();
      std::copy_n(cache_bytes_.begin() + static_cast<std::ptrdiff_t>(at), size,
                  others.begin() + static_cast<std::ptrdiff_t>(at));
    }
    EXPECT_EQ(others, cache_bytes_) << what << ": elsewhere in the cache";
    const bool half = type_ == CacheType::kHalf;
    EXPECT_EQ(verify::compare(expected, found, width_,
                              {.absolute = half ? 1e-6 : 0x1p-10, .relative = (half ? 0x1p-11 : 0x1p-4) + 1e-5}),
              "")
        << what << ": new rows of the cache";
  }

  // With the cache that the device has now.
  std::vector<float> reference() {
    const std::vector<std::uint8_t> bytes = cache_device_.values();
    const int head = s_.nope + s_.rope;
    std::vector<float> out;
    for (int r = 0; r < rows_; ++r) {
      if (positions_[r] < 0) continue;
      const int count = positions_[r] + 1;
      std::vector<float> keys;
      for (int i = 0; i < count * width_; ++i) {
        keys.push_back(value(bytes, cache_at(r, 0) + static_cast<std::size_t>(i * elem())));
      }
      for (int h = 0; h < s_.heads; ++h) {
        std::vector<float> q(q_.begin() + r * ldq_ + h * head, q_.begin() + r * ldq_ + (h + 1) * head);
        apply_rope(q.data() + s_.nope, table_, positions_[r], layout_);
        std::vector<double> absorbed(static_cast<std::size_t>(width_), 0.0), mixed(absorbed.size(), 0.0);
        for (int n = 0; n < s_.nope; ++n) {
          for (int c = 0; c < s_.latent; ++c) absorbed[c] += static_cast<double>(q[n]) * p_.row(h, n)[c];
        }
        for (int i = 0; i < s_.rope; ++i) absorbed[s_.latent + i] = q[s_.nope + i];
        std::vector<double> scores;
        for (int p = 0; p < count; ++p) {
          double sum = 0;
          for (int c = 0; c < width_; ++c) sum += absorbed[c] * keys[static_cast<std::size_t>(p * width_ + c)];
          scores.push_back(sum / std::sqrt(static_cast<double>(head)));
        }
        const double most = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (int p = 0; p < count; ++p) {
          const double e = std::exp(scores[p] - most);
          total += e;
          for (int c = 0; c < s_.latent; ++c) mixed[c] += e * keys[static_cast<std::size_t>(p * width_ + c)];
        }
        for (int j = 0; j < s_.v; ++j) {
          double sum = 0;
          for (int c = 0; c < s_.latent; ++c) sum += mixed[c] / total * p_.row(h, s_.nope + j)[c];
          out.push_back(static_cast<float>(sum));
        }
      }
    }
    return out;
  }

  Shape s_;
  std::vector<int> positions_;
  CacheType type_;
  RopeLayout layout_;
  Random random_;
  Projection p_;
  RopeTable table_;
  int rows_, context_, width_;
  int ldq_, ldkv_;
  std::vector<float> q_, kv_, weight_;
  std::vector<std::uint8_t> cache_bytes_;
  DeviceArray<float> q_device_, kv_device_, weight_device_;
  std::vector<float> cos_, sin_;
  DeviceArray<float> cos_device_, sin_device_;
  DeviceArray<int> sequence_device_, position_device_;
  DeviceArray<std::uint8_t> cache_device_;
  DeviceArray<__half> nope_, full_, mixed_, out_;
};

void check_step(const Shape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout,
                std::uint64_t seed) {
  Step step(shape, positions, type, layout, seed);
  const int longest = *std::max_element(positions.begin(), positions.end()) + 1;
  step.check("one launch", longest, [](const MlaAttention& c, void*) {
    ASSERT_TRUE(mla_decode_fits(c));
    mla_decode(c, nullptr);
  });
  // Rows of no sequence have no positions that a launch of its own could read.
  if (*std::min_element(positions.begin(), positions.end()) < 0) return;
  step.check("three launches", longest, [](const MlaAttention& c, void* workspace) {
    ASSERT_TRUE(mla_prepare_absorb_fits(c.prepare, c.up));
    mla_prepare_absorb(c.prepare, c.up, nullptr);
    mla_attend_unfold(c.up, c.attend, workspace, c.out, c.ldo, nullptr);
  });
  step.check("several launches", std::max(longest, 8192),
             [](const MlaAttention& c, void* workspace) { mla_attention(c, workspace, nullptr); });
}

constexpr CacheType kHalf = CacheType::kHalf, kE4m3 = CacheType::kE4m3;
constexpr RopeLayout kAdjacent = RopeLayout::kInterleaved, kHalves = RopeLayout::kHalves;

TEST(GpuMlaDecode, OfOneSequence) {
  check_step(kLarge, {0}, kHalf, kAdjacent, 1);
  check_step(kLarge, {131}, kE4m3, kHalves, 2);
  check_step(kDemo, {1}, kE4m3, kAdjacent, 3);
  check_step(kDemo, {64}, kHalf, kHalves, 4);
  check_step(kOdd, {300}, kHalf, kAdjacent, 5);
  check_step(kSmall, {63}, kE4m3, kHalves, 6);
  for (const int position : {7, 8, 62, 127, 128, 129, 255}) check_step(kSmall, {position}, kHalf, kAdjacent, 7);
}

TEST(GpuMlaDecode, OfSeveralSequences) {
  check_step(kDemo, {5, 90, 0, 17}, kHalf, kAdjacent, 10);
  check_step(kOdd, {130, 64, 63}, kE4m3, kHalves, 11);
  check_step(kSmall, {3, 0, 70, 12, 1, 5, 9, 40, 2}, kHalf, kHalves, 12);
  check_step(kOdd, {4, -1, 9}, kHalf, kAdjacent, 13);
  check_step(kManyHeads, {80, 7}, kHalf, kAdjacent, 14);
}

#ifndef FAIRWAY_CUDA_EMULATED
TEST(GpuMlaDecode, OfLongSequencesFull) {
  check_step(kGlm, {1023}, kHalf, kAdjacent, 20);
  check_step(kGlm, {9000}, kE4m3, kAdjacent, 21);
  check_step(kGlm, {700, 3, 4100, 64}, kHalf, kHalves, 22);
  std::vector<int> many;
  for (int r = 0; r < 64; ++r) many.push_back(r * 37 % 300);
  check_step(kGlm, many, kHalf, kAdjacent, 23);
  many.resize(33);
  check_step(kDemo, many, kE4m3, kAdjacent, 24);
}
#endif

}  // namespace
}  // namespace fairway::kernels::cuda::check
