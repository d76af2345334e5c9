// What stands between the projections and the attention, against the CPU's rms_norm and apply_rope.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "codec/float8.h"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/cuda/rope_cuda.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kEps = 1e-6f, kTheta = 10000.0f;
constexpr int kPositions = 50, kSequences = 3, kSequenceRows = 40;
constexpr verify::Bound kHalfBound{.absolute = 1e-6, .relative = 0x1p-11 + 1e-5};
constexpr verify::Bound kE4m3Bound{.absolute = 0x1p-10, .relative = 0x1p-4 + 1e-5};

// Rows of a pass; the last ones are beyond the cache.
struct Rows {
  std::vector<int> sequence, position;
  DeviceValues<int> sequence_device, position_device;

  explicit Rows(int count, Random& random)
      : sequence(make(count, random, kSequences)),
        position(make(count, random, kSequenceRows)),
        sequence_device(sequence),
        position_device(position) {
    if (count < 9) return;
    position[count - 1] = kSequenceRows;
    position[count - 2] = kSequenceRows + 1000;
    position[count - 3] = -1;
    sequence[count - 4] = -1;
    for (int r = 0; r < count; ++r) {  // no two rows write one place
      if (stored(r)) sequence[r] = r % kSequences, position[r] = (7 * r) % kSequenceRows;
    }
    sequence_device.upload(sequence);
    position_device.upload(position);
  }
  static std::vector<int> make(int count, Random& random, int below) {
    std::vector<int> values;
    for (int i = 0; i < count; ++i) values.push_back(count < 9 ? (i * 5 + random.below(2)) % below : 0);
    return values;
  }
  bool stored(int r) const { return sequence[r] >= 0 && position[r] >= 0 && position[r] < kSequenceRows; }
  int count() const { return static_cast<int>(sequence.size()); }
  PassRows device() const { return {sequence_device.get(), position_device.get(), count()}; }
};

struct Angles {
  RopeTable table;
  DeviceValues<float> cos, sin;
  RopeLayout layout;

  static RopeTable grown(int dim) {
    RopeTable table(dim, kTheta);
    table.grow(kPositions);
    return table;
  }
  static std::vector<float> rows(const float* first, int dim) { return {first, first + kPositions * dim / 2}; }
  Angles(int dim, RopeLayout layout_value)
      : table(grown(dim)), cos(rows(table.cos_row(0), dim)), sin(rows(table.sin_row(0), dim)), layout(layout_value) {}
  RopeAngles device() const { return {cos.get(), sin.get(), kPositions, table.dim(), layout}; }
};

// The cache of a layer, and what it must hold. The memory begins one sequence earlier, where nothing may be written.
struct Cache {
  CacheType type;
  int row_elems;
  DeviceValues<unsigned char> bytes;
  std::vector<float> expected;  // NaN: untouched

  Cache(CacheType cache_type, int elements)
      : type(cache_type),
        row_elems((elements + 15) / 16 * 16),
        bytes(static_cast<std::size_t>((kSequences + 1) * kSequenceRows * row_elems) * cache_type_bytes(type)),
        expected(static_cast<std::size_t>((kSequences + 1) * kSequenceRows * row_elems), NAN) {}
  LayerCache device() const {
    return {bytes.get() + kSequenceRows * row_elems * cache_type_bytes(type), type, row_elems, kSequenceRows};
  }
  float* row(int sequence, int position) {
    return expected.data() + static_cast<std::size_t>(((sequence + 1) * kSequenceRows + position) * row_elems);
  }
  void check(const std::string& what) const {
    const std::vector<unsigned char> raw = bytes.download();
    std::vector<float> wanted, found;
    int touched = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool half = type == CacheType::kHalf;
      const unsigned bits = half ? raw[2 * i] | raw[2 * i + 1] << 8 : raw[i];
      if (std::isnan(expected[i])) {
        touched += bits != (half ? 0xFFFFu : 0xFFu);
        continue;
      }
      const float most = half ? 65504.0f : 448.0f;
      wanted.push_back(std::clamp(expected[i], -most, most));
      found.push_back(half ? codec::float_from_half(static_cast<HalfBits>(bits))
                           : codec::float_from_e4m3(static_cast<std::uint8_t>(bits)));
    }
    EXPECT_EQ(touched, 0) << what << ": outside the rows of the pass";
    EXPECT_FALSE(wanted.empty());
    EXPECT_EQ(verify::compare(wanted, found, 1, type == CacheType::kHalf ? kHalfBound : kE4m3Bound), "") << what;
  }
};

void check_halves(const std::vector<float>& expected, const DeviceValues<HalfBits>& device, const std::string& what) {
  std::vector<float> wanted, found = from_half_bits(device.download()), kept;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(found[i])) << what << ": element " << i << " was written";
    } else {
      wanted.push_back(expected[i]);
      kept.push_back(found[i]);
    }
  }
  EXPECT_EQ(verify::compare(wanted, kept, 1, kHalfBound), "") << what;
}

struct MlaShape {
  int rows, heads, nope, rope, latent;
};

void check_mla(const MlaShape& s, CacheType type, RopeLayout layout) {
  const std::string what = fmt::format("{} rows, {} heads of {} + {}, latent {}, cache {}, layout {}", s.rows, s.heads,
                                       s.nope, s.rope, s.latent, static_cast<int>(type), static_cast<int>(layout));
  Random random(static_cast<std::uint64_t>(s.rows * 100 + s.latent));
  const int head = s.nope + s.rope, ldq = s.heads * head + 3, ldkv = s.latent + s.rope + 5;
  const std::vector<float> q = random_floats(random, static_cast<std::size_t>(s.rows) * ldq);
  const std::vector<float> kv = random_floats(random, static_cast<std::size_t>(s.rows) * ldkv, 4.0f);
  std::vector<float> weight = random_floats(random, static_cast<std::size_t>(s.latent));
  weight[0] = 1e5f;  // saturates
  const Rows rows(s.rows, random);
  Angles angles(s.rope, layout);
  Cache cache(type, s.latent + s.rope);

  const int full = s.latent + s.rope;
  std::vector<float> q_nope(static_cast<std::size_t>(s.rows * s.heads * s.nope), NAN);
  std::vector<float> q_full(static_cast<std::size_t>(s.rows * s.heads * full), NAN);
  for (int r = 0; r < s.rows; ++r) {
    const int position = std::clamp(rows.position[r], 0, kPositions - 1);
    for (int h = 0; h < s.heads; ++h) {
      const float* const in = q.data() + r * ldq + h * head;
      float* const out = q_full.data() + (r * s.heads + h) * full + s.latent;
      std::copy_n(in, s.nope, q_nope.data() + (r * s.heads + h) * s.nope);
      std::copy_n(in + s.nope, s.rope, out);
      apply_rope(out, angles.table, position, layout);
    }
    if (!rows.stored(r)) continue;
    float* const to = cache.row(rows.sequence[r], rows.position[r]);
    std::copy_n(kv.data() + r * ldkv, full, to);
    kernels::rms_norm(to, full, weight.data(), kEps, 1, s.latent, to, full);
    apply_rope(to + s.latent, angles.table, position, layout);
  }

  const DeviceValues<float> q_device(q), kv_device(kv), weight_device(weight);
  DeviceValues<HalfBits> nope_device(q_nope.size()), full_device(q_full.size());
  const MlaPrepare call{q_device.get(),
                        ldq,
                        kv_device.get(),
                        ldkv,
                        weight_device.get(),
                        kEps,
                        s.heads,
                        s.nope,
                        s.latent,
                        angles.device(),
                        rows.device(),
                        cache.device(),
                        as_halves(nope_device),
                        as_halves(full_device)};
  mla_prepare(call, nullptr);
  cache.check(what);
  check_halves(q_nope, nope_device, what);
  check_halves(q_full, full_device, what);
  const auto first = cache.bytes.download();
  cache.bytes.poison();
  mla_prepare(call, nullptr);
  EXPECT_EQ(first, cache.bytes.download()) << what << ": two runs";
}

struct GqaShape {
  int rows, heads, kv_heads, dim, rope;
  bool norm;
};

void check_gqa(const GqaShape& s, CacheType type, RopeLayout layout) {
  const std::string what =
      fmt::format("{} rows, {} and {} heads of {}, {} rotated, cache {}, layout {}", s.rows, s.heads, s.kv_heads, s.dim,
                  s.rope, static_cast<int>(type), static_cast<int>(layout));
  Random random(static_cast<std::uint64_t>(s.rows * 100 + s.dim));
  const int kv = s.kv_heads * s.dim, ldq = s.heads * s.dim + 1, ldk = kv + 2, ldv = kv + 3;
  const std::vector<float> q = random_floats(random, static_cast<std::size_t>(s.rows) * ldq);
  const std::vector<float> k = random_floats(random, static_cast<std::size_t>(s.rows) * ldk);
  const std::vector<float> v = random_floats(random, static_cast<std::size_t>(s.rows) * ldv, 300.0f);
  const std::vector<float> q_norm = random_floats(random, static_cast<std::size_t>(s.dim));
  const std::vector<float> k_norm = random_floats(random, static_cast<std::size_t>(s.dim));
  const Rows rows(s.rows, random);
  Angles angles(s.rope, layout);
  Cache cache(type, 2 * kv);
  const auto head = [&](const float* from, const std::vector<float>& weight, int position, float* to) {
    std::copy_n(from, s.dim, to);
    if (s.norm) kernels::rms_norm(to, s.dim, weight.data(), kEps, 1, s.dim, to, s.dim);
    apply_rope(to, angles.table, position, layout);
  };
  std::vector<float> q_out(static_cast<std::size_t>(s.rows * s.heads * s.dim));
  for (int r = 0; r < s.rows; ++r) {
    const int position = std::clamp(rows.position[r], 0, kPositions - 1);
    for (int h = 0; h < s.heads; ++h) {
      head(q.data() + r * ldq + h * s.dim, q_norm, position, q_out.data() + (r * s.heads + h) * s.dim);
    }
    if (!rows.stored(r)) continue;
    float* const to = cache.row(rows.sequence[r], rows.position[r]);
    for (int h = 0; h < s.kv_heads; ++h) head(k.data() + r * ldk + h * s.dim, k_norm, position, to + h * s.dim);
    std::copy_n(v.data() + r * ldv, kv, to + kv);
  }
  const DeviceValues<float> q_device(q), k_device(k), v_device(v), q_norm_device(q_norm), k_norm_device(k_norm);
  DeviceValues<HalfBits> out_device(q_out.size());
  gqa_prepare({q_device.get(), k_device.get(), v_device.get(), ldq, ldk, ldv, s.norm ? q_norm_device.get() : nullptr,
               s.norm ? k_norm_device.get() : nullptr, kEps, s.heads, s.kv_heads, s.dim, angles.device(), rows.device(),
               cache.device(), as_halves(out_device)},
              nullptr);
  cache.check(what);
  check_halves(q_out, out_device, what);
}

constexpr CacheType kCacheTypes[] = {CacheType::kHalf, CacheType::kE4m3};
constexpr RopeLayout kLayouts[] = {RopeLayout::kInterleaved, RopeLayout::kHalves};

TEST(GpuPrepare, Mla) {
  for (const CacheType type : kCacheTypes) {
    for (const RopeLayout layout : kLayouts) {
      check_mla({1, 8, 64, 32, 128}, type, layout);
      check_mla({2, 20, 192, 64, 512}, type, layout);
      check_mla({9, 3, 7, 2, 33}, type, layout);
      check_mla({5, 4, 300, 200, 700}, type, layout);
    }
  }
}

TEST(GpuPrepare, Gqa) {
  for (const CacheType type : kCacheTypes) {
    for (const RopeLayout layout : kLayouts) {
      check_gqa({1, 32, 4, 128, 128, true}, type, layout);
      check_gqa({9, 4, 2, 64, 64, false}, type, layout);
      check_gqa({10, 3, 1, 40, 24, true}, type, layout);
      check_gqa({3, 2, 1, 264, 264, true}, type, layout);
    }
  }
}

TEST(CudaPrepare, NonsenseIsRefused) {
  MlaPrepare mla{};
  mla.heads = 2;
  mla.nope = 8;
  mla.latent = 16;
  mla.ldq = 32;
  mla.ldkv = 24;
  mla.angles = {nullptr, nullptr, 4, 8, RopeLayout::kHalves};
  mla.cache = {nullptr, CacheType::kHalf, 16, 4};
  test::expect_error(ErrorKind::kUsage, {"mla_prepare", "0 rows"}, [&] { mla_prepare(mla, nullptr); });
  mla.rows.count = 1;
  test::expect_error(ErrorKind::kUsage, {"rows of 16 elements", "of 24"}, [&] { mla_prepare(mla, nullptr); });
  mla.cache.row_elems = 32;
  mla.ldq = 31;
  test::expect_error(ErrorKind::kUsage, {"row strides 31"}, [&] { mla_prepare(mla, nullptr); });
  GqaPrepare gqa{};
  gqa.heads = 2;
  gqa.kv_heads = 1;
  gqa.dim = 16;
  gqa.angles = mla.angles;
  gqa.angles.dim = 18;
  gqa.cache = mla.cache;
  gqa.rows.count = 1;
  gqa.ldq = gqa.ldk = gqa.ldv = 64;
  test::expect_error(ErrorKind::kUsage, {"gqa_prepare"}, [&] { gqa_prepare(gqa, nullptr); });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
