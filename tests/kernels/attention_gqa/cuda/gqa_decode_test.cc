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
#include "codec/half.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/decode_rows.cuh"
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
const GqaShape kLarge = by_size(kQwen, {"a sixteenth of Qwen", 4, 2, 128, 128, true});

class Step {
 public:
  Step(const GqaShape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout, std::uint64_t seed)
      : s_(shape),
        layout_(layout),
        random_(seed),
        rows_(static_cast<int>(positions.size())),
        kv_width_(shape.kv_heads * shape.dim),
        ldq_(shape.heads * shape.dim + 1),
        ldkv_(kv_width_ + 3),
        q_(random_floats(random_, static_cast<std::size_t>(rows_) * ldq_)),
        k_(random_floats(random_, static_cast<std::size_t>(rows_) * ldkv_)),
        v_(random_floats(random_, static_cast<std::size_t>(rows_) * ldkv_, 2.0f)),
        q_norm_(random_floats(random_, static_cast<std::size_t>(shape.dim))),
        k_norm_(random_floats(random_, static_cast<std::size_t>(shape.dim))),
        step_(positions, type, 2 * kv_width_, shape.rope, random_),
        q_device_(q_),
        k_device_(k_),
        v_device_(v_),
        q_norm_device_(q_norm_),
        k_norm_device_(k_norm_),
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
                 {step_.cos.get(), step_.sin.get(), step_.context, s_.rope, layout_},
                 step_.rows(),
                 step_.cache(),
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

  // Runs on every poison, and compares.
  template <class Run>
  void check(const std::string& what, int max_context, const Run& run) {
    const GqaAttention c = call(max_context);
    DeviceArray<unsigned char> workspace(attend_workspace_bytes(c.attend));
    std::vector<float> first;
    for (const int poison : poisons()) {
      step_.cache_device.set(step_.cache_bytes);
      workspace.fill(poison), out_.fill(poison), rotated_.fill(poison);
      run(c, workspace.get());
      std::vector<float> all;
      for (const __half v : out_.values()) all.push_back(codec::float_from_half(__half_as_ushort(v)));
      if (!first.empty()) {
        EXPECT_EQ(verify::compare_exact(first, step_.stored(all, width(), width())), "") << what << ": two runs";
        continue;
      }
      first = step_.stored(all, width(), width());
      step_.check_cache(what, s_.dim, [&](int row) { return expected_row(row); });
      const std::vector<float> expected = reference();
      EXPECT_EQ(verify::compare(expected, first, s_.dim, {.row_relative = kBound}), "") << name(what);
      fmt::print("{}: {:.1e}\n", name(what), verify::worst_row_error(expected, first, s_.dim));
      for (int r = 0; r < rows_; ++r) {
        for (int i = 0; i < width(); ++i) {
          EXPECT_TRUE(step_.has_sequence(r) || std::isfinite(all[static_cast<std::size_t>(r * width() + i)]))
              << what << ": of no sequence";
        }
      }
    }
  }

 private:
  std::string name(const std::string& what) const {
    return fmt::format("{} {}, {} rows, position {}, cache {}, layout {}", s_.name, what, rows_, step_.positions[0],
                       static_cast<int>(step_.type), static_cast<int>(layout_));
  }
  int width() const { return s_.heads * s_.dim; }
  std::vector<float> head(const float* from, const std::vector<float>& weight, int position) const {
    std::vector<float> out(from, from + s_.dim);
    if (s_.norm) kernels::rms_norm(out.data(), s_.dim, weight.data(), kEps, 1, s_.dim, out.data(), s_.dim);
    apply_rope(out.data(), step_.table, position, layout_);
    return out;
  }

  // What the CPU has in the cache for a row's position: keys, then values.
  std::vector<float> expected_row(int r) const {
    std::vector<float> row;
    for (int h = 0; h < s_.kv_heads; ++h) {
      const std::vector<float> key = head(k_.data() + r * ldkv_ + h * s_.dim, k_norm_, step_.positions[r]);
      row.insert(row.end(), key.begin(), key.end());
    }
    row.insert(row.end(), v_.begin() + r * ldkv_, v_.begin() + r * ldkv_ + kv_width_);
    return row;
  }

  // With the cache that the device has now.
  std::vector<float> reference() {
    const std::vector<std::uint8_t> bytes = step_.cache_device.values();
    std::vector<float> out;
    for (int r = 0; r < rows_; ++r) {
      if (!step_.has_sequence(r)) continue;
      for (int h = 0; h < s_.heads; ++h) {
        const std::vector<float> q = head(q_.data() + r * ldq_ + h * s_.dim, q_norm_, step_.positions[r]);
        const int kv_head = h / (s_.heads / s_.kv_heads);
        const auto cached = [&](int p, int i) {
          return step_.value(bytes, step_.cache_at(r, p, kv_head * s_.dim + i));
        };
        std::vector<double> scores, sum(static_cast<std::size_t>(s_.dim), 0.0);
        for (int p = 0; p <= step_.positions[r]; ++p) {
          double dot = 0;
          for (int i = 0; i < s_.dim; ++i) dot += static_cast<double>(q[static_cast<std::size_t>(i)]) * cached(p, i);
          scores.push_back(dot / std::sqrt(static_cast<double>(s_.dim)));
        }
        const double most = *std::max_element(scores.begin(), scores.end());
        double total = 0;
        for (int p = 0; p <= step_.positions[r]; ++p) {
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
  RopeLayout layout_;
  Random random_;
  int rows_, kv_width_;
  int ldq_, ldkv_;
  std::vector<float> q_, k_, v_, q_norm_, k_norm_;
  DecodeRows step_;
  DeviceArray<float> q_device_, k_device_, v_device_, q_norm_device_, k_norm_device_;
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
  if (gqa_cluster_fits(step.call(longest))) {
    step.check("clusters", longest, [](const GqaAttention& c, void*) { gqa_cluster(c, nullptr); });
  }
  // Rows of no sequence have no positions that a launch of its own could read.
  if (*std::min_element(positions.begin(), positions.end()) < 0) return;
  if (!single_runs()) {
    step.check("as it chooses", longest,
               [](const GqaAttention& c, void* workspace) { gqa_attention(c, workspace, nullptr); });
  }
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
  const std::vector<int> ends{15, 16, 31, 32, 33, 127, 300};
  for (const int position : by_size(ends, ends, {16, 127})) check_step(kPlain, {position}, kHalf, kHalves, 5);
  check_step(kPlain, {63}, kE4m3, kHalves, 6);
}

constexpr GqaShape kEight{"eight heads of each key", 8, 1, 128, 128, true};

// Fewer positions than CTAs, a tile each, several, and more than all warps have at a time.
TEST(GpuGqaDecode, ByClusters) {
  const std::vector<int> ends{0, 15, 33, 255, 900, 2100};
  for (const int position : by_size(ends, ends, {33, 2100})) check_step(kEight, {position}, kHalf, kHalves, 30);
  check_step(kEight, {450}, kE4m3, kAdjacent, 31);
  check_step({"without norms", 8, 2, 128, 128, false}, {100, -1, 7}, kE4m3, kHalves, 32);
}

TEST(GpuGqaDecode, OfSeveralSequences) {
  check_step(kLarge, {5, 90, 0, 17}, kHalf, kHalves, 10);
  check_step(kPart, {130, 64, 63}, kE4m3, kHalves, 11);
  check_step(kPlain, {3, 0, 70, 12, 1, 5, 9, 40, 2}, kHalf, kHalves, 12);
  check_step(kPart, {4, -1, 9}, kHalf, kAdjacent, 13);
}

#ifndef FAIRWAY_CUDA_EMULATED
TEST(GpuGqaDecode, OfLongSequences) {
  check_step(kQwen, {by_size(1023, 300)}, kHalf, kHalves, 20);
  check_step(kQwen, {by_size(5000, 700)}, kE4m3, kHalves, 21);
  check_step(kQwen, by_size<std::vector<int>>({700, 3, 2100, 64}, {70, 3}), kHalf, kHalves, 22);
}
#endif

}  // namespace
}  // namespace fairway::kernels::cuda::check
