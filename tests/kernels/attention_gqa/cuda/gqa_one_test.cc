// The projections and the attention of one row in one launch, against double precision.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "codec/half.h"
#include "codec/trellis.h"
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/decode_rows.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/trellis_band/cuda/host_matrix.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kEps = 1e-6f;
constexpr int kDim = 128;
// Products have 15-bit inputs and scores of some units, results are halves. Cached rows of E4M3 carry 2^-4.
constexpr double kBound = 4e-3;

struct OneShape {
  int heads, kv_heads, in, in_exact;
  int bits[3];     // of q, k, v; 0: random
  int suh[3];      // matrices with the same number share their input scales
  bool norm, add;  // of heads; in front of the projections something is added
  int rope = kDim;
};

class OneStep {
 public:
  OneStep(const OneShape& shape, int position, CacheType type, RopeLayout layout, std::uint64_t seed)
      : s_(shape),
        layout_(layout),
        random_(seed),
        kv_width_(shape.kv_heads * kDim),
        x_(random_floats(random_, static_cast<std::size_t>(shape.in_exact), 3.0f)),
        add_(random_floats(random_, static_cast<std::size_t>(shape.in_exact), 2.0f)),
        weight_(random_floats(random_, static_cast<std::size_t>(shape.in_exact))),
        q_norm_(random_floats(random_, kDim)),
        k_norm_(random_floats(random_, kDim)),
        step_({position}, type, 2 * kv_width_, shape.rope, random_),
        x_device_(x_),
        add_device_(add_),
        weight_device_(weight_),
        q_norm_device_(q_norm_),
        k_norm_device_(k_norm_),
        sum_(static_cast<std::size_t>(shape.in_exact)),
        untouched_(3 * static_cast<std::size_t>(width())),
        out_(static_cast<std::size_t>(width())) {
    for (int i = 0; i < 3; ++i) {
      const HostMatrix* same = nullptr;
      int of = i;
      for (int j = i - 1; j >= 0; --j) {
        if (shape.suh[j] == shape.suh[i]) same = &matrices_[static_cast<std::size_t>(j)], of = j;
      }
      matrices_.push_back(random_matrix(random_, shape.in, i == 0 ? width() : kv_width_, shape.bits[i],
                                        static_cast<int>(codec::Codebook::kMul1), same ? &same->suh : nullptr));
      refs_.push_back(device_.matrix(matrices_.back(), same ? refs_[static_cast<std::size_t>(of)].suh : nullptr));
    }
    project();
  }

  GqaAttention call(int max_context) {
    GqaAttention c{};
    float* const nowhere = untouched_.get();
    c.prepare = {nowhere,
                 nowhere + width(),
                 nowhere + 2 * width(),
                 width(),
                 kv_width_,
                 kv_width_,
                 s_.norm ? q_norm_device_.get() : nullptr,
                 s_.norm ? k_norm_device_.get() : nullptr,
                 kEps,
                 s_.heads,
                 s_.kv_heads,
                 kDim,
                 {step_.cos.get(), step_.sin.get(), step_.context, s_.rope, layout_},
                 step_.rows(),
                 step_.cache(),
                 nullptr};
    AttendCall& a = c.attend;
    a.cache = c.prepare.cache;
    a.heads = s_.heads, a.kv_heads = s_.kv_heads, a.key_dim = a.value_dim = kDim;
    a.key_stride = a.value_stride = kDim, a.value_offset = kv_width_;
    a.rows = c.prepare.rows;
    a.max_context = max_context;
    a.fresh = 1;
    a.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(kDim)));
    a.out = out_.get();
    LinearCall& linear = c.projections;
    linear.in = s_.in, linear.rows = 1, linear.count = 3, linear.all_mul1 = true;
    for (int i = 0; i < 3; ++i) {
      const HostMatrix& m = matrices_[static_cast<std::size_t>(i)];
      linear.outputs[i] = {
          refs_[static_cast<std::size_t>(i)], m.out, m.out, nullptr, nowhere + i * width(), m.out, false};
      linear.max_bits = std::max(linear.max_bits, m.bits);
    }
    linear.norm = {x_device_.get(),
                   s_.in_exact,
                   s_.add ? add_device_.get() : nullptr,
                   s_.in_exact,
                   weight_device_.get(),
                   kEps,
                   s_.in_exact,
                   s_.add ? sum_.get() : nullptr,
                   s_.in_exact};
    return c;
  }

  // Runs twice, and compares.
  void check(int max_context) {
    const GqaAttention c = call(max_context);
    ASSERT_TRUE(gqa_one_fits(c)) << name();
    std::vector<float> first;
    for (const int poison : {0xFF, 0x7F}) {
      step_.cache_device.set(step_.cache_bytes);
      out_.fill(poison), sum_.fill(poison), untouched_.fill(poison);
      gqa_attention(c, nullptr, nullptr);
      std::vector<float> out;
      for (const __half v : out_.values()) out.push_back(codec::float_from_half(__half_as_ushort(v)));
      if (s_.add) EXPECT_EQ(verify::compare_exact(sums_, sum_.values()), "") << name() << ": sums";
      if (!first.empty()) {
        EXPECT_EQ(verify::compare_exact(first, out), "") << name() << ": two runs";
        continue;
      }
      first = out;
      check_row();
      const std::vector<float> expected = reference();
      EXPECT_EQ(verify::compare(expected, first, kDim, {.row_relative = kBound}), "") << name();
      fmt::print("{}: {:.1e}\n", name(), verify::worst_row_error(expected, first, kDim));
    }
  }

 private:
  int width() const { return s_.heads * kDim; }
  std::string name() const {
    return fmt::format("{} heads, {} of keys, {} inputs, widths {} {} {}, position {}, cache {}", s_.heads, s_.kv_heads,
                       s_.in, matrices_[0].bits, matrices_[1].bits, matrices_[2].bits, step_.positions[0],
                       static_cast<int>(step_.type));
  }

  // q, k and v.
  void project() {
    double squares = 0;
    std::vector<double> row(static_cast<std::size_t>(s_.in));
    for (std::size_t k = 0; k < x_.size(); ++k) {
      const float sum = s_.add ? x_[k] + add_[k] : x_[k];
      sums_.push_back(sum);
      row[k] = static_cast<double>(sum) * weight_[k];
      squares += static_cast<double>(sum) * sum;
    }
    for (double& v : row) v /= std::sqrt(squares / s_.in_exact + kEps);
    for (const HostMatrix& m : matrices_) products_.push_back(m.apply(row));
  }

  // Head h of product i after its norm and rotation.
  std::vector<double> head(std::size_t i, int h, const std::vector<float>& weight) const {
    const auto from = products_[i].begin() + static_cast<std::ptrdiff_t>(h) * kDim;
    std::vector<double> v(from, from + kDim), out(v);
    if (s_.norm) {
      double squares = 0;
      for (const double e : v) squares += e * e;
      for (std::size_t e = 0; e < v.size(); ++e) v[e] *= weight[e] / std::sqrt(squares / kDim + kEps);
      out = v;
    }
    const int half = s_.rope / 2;
    const auto position = static_cast<std::size_t>(step_.positions[0]);
    for (int j = 0; j < half; ++j) {
      const bool adjacent = layout_ == RopeLayout::kInterleaved;
      const double a = v[static_cast<std::size_t>(adjacent ? 2 * j : j)];
      const double b = v[static_cast<std::size_t>(adjacent ? 2 * j + 1 : j + half)];
      const double cos = step_.table.cos_row(static_cast<int>(position))[j];
      const double sin = step_.table.sin_row(static_cast<int>(position))[j];
      out[static_cast<std::size_t>(j)] = a * cos - b * sin;
      out[static_cast<std::size_t>(j + half)] = b * cos + a * sin;
    }
    return out;
  }

  // The new row of the cache; nothing else in it has changed.
  void check_row() {
    std::vector<float> expected, found;
    for (int h = 0; h < s_.kv_heads; ++h) {
      for (const double v : head(1, h, k_norm_)) expected.push_back(static_cast<float>(v));
    }
    for (const double v : products_[2]) expected.push_back(static_cast<float>(v));
    const std::vector<std::uint8_t> bytes = step_.cache_device.values();
    std::vector<std::uint8_t> others = bytes;
    const std::size_t at = step_.cache_at(0, step_.positions[0]);
    const auto elem = static_cast<std::size_t>(cache_type_bytes(step_.type));
    for (std::size_t i = 0; i < expected.size(); ++i) found.push_back(step_.value(bytes, at + i * elem));
    std::copy_n(step_.cache_bytes.begin() + static_cast<std::ptrdiff_t>(at), expected.size() * elem,
                others.begin() + static_cast<std::ptrdiff_t>(at));
    EXPECT_EQ(others, step_.cache_bytes) << name() << ": elsewhere in the cache";
    const double bound = step_.type == CacheType::kHalf ? 3e-3 : 0x1p-4;
    EXPECT_EQ(verify::compare(expected, found, kDim, {.row_relative = bound}), "") << name() << ": new row";
  }

  // With the cache that the device has now.
  std::vector<float> reference() {
    const std::vector<std::uint8_t> bytes = step_.cache_device.values();
    std::vector<float> out;
    for (int h = 0; h < s_.heads; ++h) {
      const std::vector<double> q = head(0, h, q_norm_);
      const int kv_head = h / (s_.heads / s_.kv_heads);
      const auto cached = [&](int p, int i) { return step_.value(bytes, step_.cache_at(0, p, kv_head * kDim + i)); };
      std::vector<double> scores, sum(kDim, 0.0);
      for (int p = 0; p <= step_.positions[0]; ++p) {
        double dot = 0;
        for (int i = 0; i < kDim; ++i) dot += q[static_cast<std::size_t>(i)] * cached(p, i);
        scores.push_back(dot / std::sqrt(static_cast<double>(kDim)));
      }
      const double most = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (int p = 0; p <= step_.positions[0]; ++p) {
        const double e = std::exp(scores[static_cast<std::size_t>(p)] - most);
        total += e;
        for (int i = 0; i < kDim; ++i) sum[static_cast<std::size_t>(i)] += e * cached(p, kv_width_ + i);
      }
      for (const double v : sum) out.push_back(static_cast<float>(v / total));
    }
    return out;
  }

  OneShape s_;
  RopeLayout layout_;
  Random random_;
  int kv_width_;
  std::vector<float> x_, add_, weight_, q_norm_, k_norm_, sums_;
  std::vector<HostMatrix> matrices_;
  std::vector<std::vector<double>> products_;
  DecodeRows step_;
  DeviceData device_;
  std::vector<TrellisRef> refs_;
  DeviceArray<float> x_device_, add_device_, weight_device_, q_norm_device_, k_norm_device_, sum_, untouched_;
  DeviceArray<__half> out_;
};

void check_one(const OneShape& shape, int position, CacheType type, RopeLayout layout, std::uint64_t seed,
               int max_context = 0) {
  if (!gpu_features().clusters) GTEST_SKIP() << "without clusters there is no such launch";
  OneStep(shape, position, type, layout, seed).check(max_context > 0 ? max_context : position + 1);
}

constexpr CacheType kHalf = CacheType::kHalf, kE4m3 = CacheType::kE4m3;
constexpr RopeLayout kAdjacent = RopeLayout::kInterleaved, kHalves = RopeLayout::kHalves;

TEST(GpuGqaOne, OfEveryWidth) {
  for (int bits = 1; bits <= 8; ++bits) {
    check_one({4, 1, 256, 256, {bits, bits, bits}, {0, 0, 0}, true, bits % 2 == 0}, 3, kHalf, kHalves,
              static_cast<std::uint64_t>(bits));
  }
}

TEST(GpuGqaOne, OfWidthsAndScalesOfTheirOwn) {
  check_one({4, 1, 128, 128, {3, 4, 6}, {0, 0, 0}, true, true}, 20, kE4m3, kHalves, 20);
  check_one({4, 1, 256, 200, {4, 4, 4}, {0, 1, 2}, true, true}, 21, kHalf, kAdjacent, 21);
  check_one({4, 1, 128, 128, {5, 2, 5}, {0, 1, 1}, false, false}, 22, kHalf, kHalves, 22);
  check_one({4, 1, 128, 128, {8, 1, 7}, {0, 0, 1}, true, false}, 23, kE4m3, kHalves, 23);
}

TEST(GpuGqaOne, OfSeveralClusters) {
  check_one({8, 1, 128, 128, {4, 4, 4}, {0, 0, 0}, true, true}, 40, kHalf, kHalves, 30);
  check_one({8, 2, 128, 128, {3, 3, 3}, {0, 0, 0}, true, true}, 17, kE4m3, kHalves, 31);
}

TEST(GpuGqaOne, OfPositions) {
  const OneShape shape{4, 1, 128, 128, {4, 4, 4}, {0, 0, 0}, true, true};
  for (const int position : by_size<std::vector<int>>({0, 1, 15, 16, 127, 128, 512, 513, 1000}, {0, 1, 128, 513})) {
    check_one(shape, position, kHalf, kHalves, 40);
  }
  OneShape partly = shape;
  partly.rope = 64;
  check_one(partly, 200, kE4m3, kAdjacent, 41);
  // More turns than stages, as a recorded step may have for any position.
  check_one(shape, 1200, kHalf, kHalves, 42, 600);
  check_one(shape, 1200, kE4m3, kHalves, 43, 1);
}

// Runs of blocks of unequal length.
TEST(GpuGqaOne, OfInputs) {
  check_one({4, 1, 1152, 1152, {2, 2, 2}, {0, 0, 0}, true, true}, 5, kHalf, kHalves, 50);
#ifndef FAIRWAY_CUDA_EMULATED
  for (const int in : {384, 896, 1024, 1920, 2048}) {
    check_one({4, 1, in, in - 4, {4, 4, 4}, {0, 0, 0}, true, true}, 60, kHalf, kHalves, 51);
  }
#endif
}

#ifndef FAIRWAY_CUDA_EMULATED
TEST(GpuGqaOne, OfQwenFull) {
  const OneShape qwen{32, 4, 2048, 2048, {4, 4, 4}, {0, 0, 0}, true, true};
  check_one(qwen, 0, kHalf, kHalves, 60);
  check_one(qwen, 255, kHalf, kHalves, 61);
  check_one(qwen, 3000, kHalf, kHalves, 62);
  check_one(qwen, 4095, kE4m3, kHalves, 63);
  check_one({32, 4, 2048, 2048, {6, 8, 3}, {0, 1, 2}, true, true}, 700, kHalf, kHalves, 64);
}
#endif

TEST(GpuGqaOne, NotForOtherCalls) {
  if (!gpu_features().clusters) GTEST_SKIP() << "without clusters there is no such launch";
  OneStep step({4, 1, 128, 128, {4, 4, 4}, {0, 0, 0}, true, true}, 3, kHalf, kHalves, 70);
  ASSERT_TRUE(gqa_one_fits(step.call(4)));
  const auto refused = [&](const char* what, const auto& change) {
    GqaAttention call = step.call(4);
    change(call);
    EXPECT_FALSE(gqa_one_fits(call)) << what;
  };
  refused("two rows", [](GqaAttention& c) { c.prepare.rows.count = c.projections.rows = 2; });
  refused("another size of heads", [](GqaAttention& c) { c.prepare.dim = 64; });
  refused("two query heads of a key head", [](GqaAttention& c) { c.prepare.heads = 2; });
  refused("no norm", [](GqaAttention& c) { c.projections.norm = {}; });
  refused("another codebook", [](GqaAttention& c) { c.projections.all_mul1 = false; });
  refused("a bias", [](GqaAttention& c) { c.projections.outputs[1].bias = c.projections.norm.weight; });
  refused("a matrix that is not coded", [](GqaAttention& c) { c.projections.count = 2; });
  refused("too many inputs", [](GqaAttention& c) { c.projections.in = 4096; });
  refused("a long context", [](GqaAttention& c) { c.attend.max_context = 1 << 20; });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
