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
#include "codec/trellis.h"
#include "kernels/attention_mla/cuda/projection_problem.cuh"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/decode_rows.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/trellis_band/cuda/host_matrix.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kEps = 1e-6f;
constexpr Shape kGlm{"GLM", 20, 192, 64, 256, 512}, kDemo{"demo", 8, 64, 32, 64, 128};
constexpr Shape kOdd{"odd", 3, 80, 16, 48, 192}, kSmall{"small", 1, 16, 16, 16, 64};
constexpr Shape kManyHeads{"many heads", 20, 16, 16, 16, 64};
constexpr Shape kHeads128{"heads of 128", 3, 96, 32, 32, 128}, kLongRotation{"long rotation", 2, 128, 128, 64, 256};
const Shape kLarge = by_size(kGlm, {"two heads of GLM", 2, 192, 64, 256, 512});
// Queries and results of the splits are halves, and what comes in between: 2^-12 relative each on average.
constexpr double kBound = 2e-3;

std::vector<float> normal(Random& random, std::size_t count, float size) {
  std::vector<float> values(count);
  for (float& v : values) v = size * random.normal();
  return values;
}

// The linear layer that the queries come from, if bits is not 0.
struct QueryLayer {
  int bits = 0, in = 0, normed = 0;  // normed: inputs that are not zero
};

class Step {
 public:
  Step(const Shape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout, std::uint64_t seed,
       UpWeight up, const QueryLayer& layer = {})
      : s_(shape),
        layout_(layout),
        random_(seed),
        p_(shape, random_, 0.08f, up),
        rows_(static_cast<int>(positions.size())),
        width_(shape.latent + shape.rope),
        ldq_(shape.heads * (shape.nope + shape.rope) + 8),
        ldkv_(width_ + 4),
        q_(normal(random_, static_cast<std::size_t>(rows_) * ldq_, 1.0f)),
        kv_(normal(random_, static_cast<std::size_t>(rows_) * ldkv_, 3.0f)),
        weight_(normal(random_, static_cast<std::size_t>(shape.latent), 0.7f)),
        step_(positions, type, width_, shape.rope, random_),
        q_device_(q_),
        kv_device_(kv_),
        weight_device_(weight_),
        nope_(static_cast<std::size_t>(rows_) * shape.heads * shape.nope),
        full_(static_cast<std::size_t>(rows_) * shape.heads * width_),
        mixed_(static_cast<std::size_t>(rows_) * shape.heads * shape.latent),
        out_(static_cast<std::size_t>(rows_) * ldo()) {
    if (layer.bits > 0) make_query(layer);
  }

  MlaAttention call(int max_context) {
    MlaAttention c{};
    c.query = query_;
    c.prepare = {q_device_.get(),
                 ldq_,
                 kv_device_.get(),
                 ldkv_,
                 weight_device_.get(),
                 kEps,
                 s_.heads,
                 s_.nope,
                 s_.latent,
                 {step_.cos.get(), step_.sin.get(), step_.context, s_.rope, layout_},
                 step_.rows(),
                 step_.cache(),
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

  // Runs on every poison, and compares.
  template <class Run>
  void check(const std::string& what, int max_context, const Run& run) {
    const MlaAttention c = call(max_context);
    DeviceArray<unsigned char> workspace(attend_workspace_bytes(c.attend));
    std::vector<float> first;
    for (const int poison : poisons()) {
      step_.cache_device.set(step_.cache_bytes);
      workspace.fill(poison), out_.fill(poison), nope_.fill(poison), full_.fill(poison), mixed_.fill(poison);
      run(c, workspace.get());
      const std::vector<float> all = to_floats(out_.values());
      if (!first.empty()) {
        EXPECT_EQ(verify::compare_exact(first, step_.stored(all, s_.heads * s_.v, ldo())), "") << what << ": two runs";
        continue;
      }
      first = step_.stored(all, s_.heads * s_.v, ldo());
      step_.check_cache(what, width_, [&](int row) { return expected_row(row); });
      const std::vector<float> expected = reference();
      EXPECT_EQ(verify::compare(expected, first, s_.v, {.row_relative = kBound}), "") << name(what);
      fmt::print("{}: {:.1e}\n", name(what), verify::worst_row_error(expected, first, s_.v));
      for (int r = 0; r < rows_; ++r) {
        for (int i = s_.heads * s_.v; i < ldo(); ++i) {
          EXPECT_TRUE(std::isnan(all[static_cast<std::size_t>(r * ldo() + i)])) << what << ": behind the heads";
        }
        if (step_.has_sequence(r)) continue;
        for (int i = 0; i < s_.heads * s_.v; ++i) {
          EXPECT_TRUE(std::isfinite(all[static_cast<std::size_t>(r * ldo() + i)])) << what << ": of no sequence";
        }
      }
    }
  }

 private:
  std::string name(const std::string& what) const {
    return fmt::format("{} {}, {} rows, position {}, cache {}, layout {}, kv_b {}", s_.name, what, rows_,
                       step_.positions[0], static_cast<int>(step_.type), static_cast<int>(layout_),
                       static_cast<int>(p_.type));
  }
  int ldo() const { return s_.heads * s_.v + 8; }

  // The queries of a single row are the product of a norm, of about the size that they have without it.
  void make_query(const QueryLayer& layer) {
    const HostMatrix matrix = random_matrix(random_, layer.in, s_.heads * (s_.nope + s_.rope), layer.bits,
                                            static_cast<int>(codec::Codebook::kMul1), nullptr);
    const std::size_t normed = static_cast<std::size_t>(layer.normed);
    const std::vector<float> x = normal(random_, normed, std::exp2(random_.uniform(-10.0f, 10.0f)));
    std::vector<float> weight = normal(random_, normed, 1.0f);
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(normed) + kEps);
    const auto product = [&] {
      std::vector<double> input(static_cast<std::size_t>(layer.in), 0.0);
      for (std::size_t i = 0; i < normed; ++i) input[i] = x[i] * factor * weight[i];
      return matrix.apply(input);
    };
    double size = 0;
    const std::vector<double> unscaled = product();
    for (const double v : unscaled) size += v * v / static_cast<double>(unscaled.size());
    for (float& w : weight) w /= static_cast<float>(std::sqrt(size));
    const std::vector<double> y = product();
    std::copy(y.begin(), y.end(), q_.begin());
    query_.norm.x = query_data_.upload(x);
    query_.norm.ldx = layer.normed;
    query_.norm.weight = query_data_.upload(weight);
    query_.norm.eps = kEps;
    query_.norm.n = layer.normed;
    query_.in = layer.in;
    query_.matrix = query_data_.matrix(matrix, nullptr);
    q_device_.fill(0xFF);
  }

  // What the CPU has in the cache for a row's position.
  std::vector<float> expected_row(int r) const {
    std::vector<float> row(kv_.begin() + r * ldkv_, kv_.begin() + r * ldkv_ + width_);
    kernels::rms_norm(row.data(), width_, weight_.data(), kEps, 1, s_.latent, row.data(), width_);
    apply_rope(row.data() + s_.latent, step_.table, step_.positions[r], layout_);
    return row;
  }

  // With the cache that the device has now.
  std::vector<float> reference() {
    const std::vector<std::uint8_t> bytes = step_.cache_device.values();
    const int head = s_.nope + s_.rope;
    std::vector<float> out;
    for (int r = 0; r < rows_; ++r) {
      if (!step_.has_sequence(r)) continue;
      const int count = step_.positions[r] + 1;
      std::vector<float> keys;
      for (int i = 0; i < count * width_; ++i) {
        keys.push_back(step_.value(bytes, step_.cache_at(r, 0, i)));
      }
      for (int h = 0; h < s_.heads; ++h) {
        std::vector<float> q(q_.begin() + r * ldq_ + h * head, q_.begin() + r * ldq_ + (h + 1) * head);
        apply_rope(q.data() + s_.nope, step_.table, step_.positions[r], layout_);
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
  RopeLayout layout_;
  Random random_;
  Projection p_;
  int rows_, width_;
  int ldq_, ldkv_;
  std::vector<float> q_, kv_, weight_;
  DecodeRows step_;
  DeviceArray<float> q_device_, kv_device_, weight_device_;
  DeviceArray<__half> nope_, full_, mixed_, out_;
  DeviceData query_data_;
  MlaQuery query_{};
};

void check_step(const Shape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout,
                std::uint64_t seed, UpWeight up) {
  Step step(shape, positions, type, layout, seed, up);
  const int longest = *std::max_element(positions.begin(), positions.end()) + 1;
  if (gpu_features().clusters) {
    step.check("one launch", longest, [](const MlaAttention& c, void*) {
      ASSERT_TRUE(mla_decode_fits(c));
      mla_decode(c, nullptr);
    });
  }
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

// With both kinds of weights, in the emulator with one of them.
void check_step(const Shape& shape, const std::vector<int>& positions, CacheType type, RopeLayout layout,
                std::uint64_t seed) {
  const UpWeight one = seed % 2 == 0 ? UpWeight::kHalf : UpWeight::kByte;
  for (const UpWeight up : by_size<std::vector<UpWeight>>({UpWeight::kHalf, UpWeight::kByte}, {one})) {
    check_step(shape, positions, type, layout, seed, up);
  }
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
  const std::vector<int> ends{7, 8, 62, 127, 128, 129, 255};
  for (const int position : by_size(ends, ends, {8, 129})) check_step(kSmall, {position}, kHalf, kAdjacent, 7);
}

TEST(GpuMlaDecode, OfSeveralSequences) {
  check_step(kDemo, {5, 90, 0, 17}, kHalf, kAdjacent, 10);
  check_step(kOdd, {130, 64, 63}, kE4m3, kHalves, 11);
  check_step(kSmall, {3, 0, 70, 12, 1, 5, 9, 40, 2}, kHalf, kHalves, 12);
  check_step(kOdd, {4, -1, 9}, kHalf, kAdjacent, 13);
  check_step(kManyHeads, {80, 7}, kHalf, kAdjacent, 14);
}

void check_query(const Shape& shape, int position, CacheType type, RopeLayout layout, std::uint64_t seed, UpWeight up,
                 const QueryLayer& layer) {
  Step step(shape, {position}, type, layout, seed, up, layer);
  if (!gpu_features().clusters) {
    EXPECT_FALSE(mla_query_absorb_fits(step.call(8192)));
    return;
  }
  const std::string what = fmt::format("{} of {} inputs, {} bits", layer.normed, layer.in, layer.bits);
  step.check(what + ", three launches", position + 1, [](const MlaAttention& c, void* workspace) {
    ASSERT_TRUE(mla_query_absorb_fits(c));
    mla_query_absorb(c, nullptr);
    mla_attend_unfold(c.up, c.attend, workspace, c.out, c.ldo, nullptr);
  });
  step.check(what + ", long", 8192, [](const MlaAttention& c, void* workspace) {
    ASSERT_TRUE(mla_query_fits(c));
    mla_attention(c, workspace, nullptr);
  });
}

TEST(GpuMlaDecode, WithTheLinearLayerOfItsQueries) {
  check_query(kLarge, 5, kHalf, kAdjacent, 30, UpWeight::kHalf, {3, 768, 768});
  check_query(kLarge, 70, kE4m3, kHalves, 31, UpWeight::kByte, {8, 1024, 1000});
  check_query(kHeads128, 9, kHalf, kAdjacent, 32, UpWeight::kByte, {4, 128, 128});
  check_query(kLongRotation, 3, kE4m3, kHalves, 33, UpWeight::kHalf, {5, 384, 300});
  const std::vector<int> widths{1, 2, 3, 4, 5, 6, 7, 8};
  for (const int bits : by_size(widths, widths, {2, 7})) {
    const QueryLayer layer{bits, 128 * (1 + 3 * bits % 7), 128 * (1 + 3 * bits % 7) - 4 * (bits % 3)};
    check_query(kHeads128, bits, bits % 2 == 0 ? kHalf : kE4m3, kAdjacent, static_cast<std::uint64_t>(40 + bits),
                UpWeight::kHalf, layer);
  }
}

TEST(GpuMlaDecode, LinearLayersThatDoNotFit) {
  Step step(kHeads128, {3}, kHalf, kAdjacent, 50, UpWeight::kHalf, {4, 256, 256});
  const MlaAttention right = step.call(2000);
  EXPECT_EQ(mla_query_fits(right), gpu_features().clusters);
  const auto refuses = [&](const auto& change) {
    MlaAttention wrong = right;
    change(wrong);
    EXPECT_FALSE(mla_query_fits(wrong));
  };
  refuses([](MlaAttention& c) { c.attend.max_context = 1024; });  // these have a launch for all of it
  refuses([](MlaAttention& c) { c.attend.max_context = 32769; });
  refuses([](MlaAttention& c) { c.query.norm.x = nullptr; });
  refuses([](MlaAttention& c) { c.query.norm.x += 1; });
  refuses([](MlaAttention& c) { c.query.norm.n = 260; });
  refuses([](MlaAttention& c) { c.query.norm.add = c.prepare.kv; });
  refuses([](MlaAttention& c) { c.query.in = 192; });
  refuses([](MlaAttention& c) { c.query.in = 1152; });
  refuses([](MlaAttention& c) { c.query.matrix.codebook = static_cast<int>(codec::Codebook::k3inst); });
  refuses([](MlaAttention& c) { c.query.matrix.words += 8; });
  refuses([](MlaAttention& c) { c.prepare.rows.count = 2; });
  refuses([](MlaAttention& c) { c.prepare.angles.dim = 16; });
  MlaAttention wrong = right;
  wrong.query.in = 1152;
  test::expect_error(ErrorKind::kUsage, {"1152"}, [&] { mla_query_absorb(wrong, nullptr); });
}

#ifndef FAIRWAY_CUDA_EMULATED
TEST(GpuMlaDecode, OfLongSequences) {
  check_step(kLarge, {by_size(1023, 300)}, kHalf, kAdjacent, 20);
  check_step(kLarge, {by_size(9000, 1023)}, kE4m3, kAdjacent, 21);
  check_step(kLarge, by_size<std::vector<int>>({700, 3, 4100, 64}, {700, 3}), kHalf, kHalves, 22);
  std::vector<int> many;
  for (int r = 0; r < by_size(64, 9); ++r) many.push_back(r * 37 % 300);
  check_step(kLarge, many, kHalf, kAdjacent, 23);
  many.resize(by_size(33, 5));
  check_step(kDemo, many, kE4m3, kAdjacent, 24);
}
#endif

}  // namespace
}  // namespace fairway::kernels::cuda::check
