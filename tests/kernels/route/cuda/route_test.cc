// Norm and router on the device: the norm as rms_norm's, logits against double precision, and the choice as route()
// makes it from the same logits.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/route/cuda/route_cuda.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct RouteCase {
  int n, rows, experts, top_k;
  RouteKind kind = RouteKind::kSoftmaxTopK;
  bool normalize = true, bias = false, add = true;
  DenseType type = DenseType::kBf16;
  std::size_t shift = 0;  // of the router's weights
  bool ties = false;      // experts 2i and 2i + 1 have the same weights
  int nan_expert = -1;    // whose weights are NaN
};

std::string describe(const RouteCase& c) {
  return fmt::format("{} rows of {}, {} of {} experts, kind {}, normalize {}, bias {}, type {}, shift {}", c.rows, c.n,
                     c.top_k, c.experts, static_cast<int>(c.kind), c.normalize, c.bias, static_cast<int>(c.type),
                     c.shift);
}

// Everything that a call reads and writes.
constexpr unsigned kTurn = 41;

struct Setup {
  std::vector<float> x, add, norm_weight, bias;
  StoredMatrix w;
  DeviceValues<float> x_device, add_device, norm_weight_device, bias_device;
  DeviceValues<unsigned char> w_device;
  DeviceValues<HalfBits> out;
  DeviceValues<float> out_fp32, weights, logits;
  DeviceValues<int> ids;
  DeviceValues<uint4> units;
  DeviceValues<unsigned> turn, row;
  int padded;

  static std::vector<float> router_weights(const RouteCase& c, Random& random) {
    const std::size_t n = static_cast<std::size_t>(c.n);
    std::vector<float> w = random_floats(random, n * c.experts, 2.0f / std::sqrt(static_cast<float>(c.n)));
    for (int e = 1; c.ties && e < c.experts; e += 2) std::copy_n(w.begin() + (e - 1) * c.n, n, w.begin() + e * c.n);
    if (c.nan_expert >= 0) w[c.nan_expert * n] = kNan;
    return w;
  }

  Setup(const RouteCase& c, Random& random)
      : x(random_floats(random, static_cast<std::size_t>(c.rows) * c.n)),
        add(random_floats(random, x.size())),
        norm_weight(random_floats(random, static_cast<std::size_t>(c.n))),
        bias(random_floats(random, static_cast<std::size_t>(c.experts))),
        w(router_weights(c, random), c.type, c.shift),
        x_device(x),
        add_device(add),
        norm_weight_device(norm_weight),
        bias_device(bias),
        w_device(w.bytes),
        out(static_cast<std::size_t>(c.rows) * ((c.n + 127) / 128 * 128)),
        out_fp32(x.size()),
        weights(static_cast<std::size_t>(c.rows) * c.top_k),
        logits(static_cast<std::size_t>(c.rows) * c.experts),
        ids(static_cast<std::size_t>(c.rows) * c.top_k),
        units(static_cast<std::size_t>(c.rows) * c.top_k),
        turn(std::vector<unsigned>{kTurn}),
        row(std::vector<unsigned>{kTurn}),
        padded((c.n + 127) / 128 * 128) {}

  RouteCall call(const RouteCase& c) {
    RouteCall call{};
    call.norm = {x_device.get(),
                 c.n,
                 c.add ? add_device.get() : nullptr,
                 c.n,
                 norm_weight_device.get(),
                 1e-5f,
                 c.n,
                 c.rows,
                 as_halves(out),
                 padded,
                 padded,
                 out_fp32.get()};
    call.weight = w_device.get() + c.shift;
    call.type = c.type;
    call.experts = c.experts;
    call.top_k = c.top_k;
    call.kind = c.kind;
    call.normalize = c.normalize;
    call.scaling_factor = 1.8f;
    call.selection_bias = c.bias ? bias_device.get() : nullptr;
    call.ids = ids.get();
    call.weights = weights.get();
    call.logits = logits.get();
    return call;
  }
};

void check_choice(const RouteCase& c, const Setup& s, const std::vector<float>& logits) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(c.rows) * c.top_k);
  std::vector<float> weights(ids.size());
  route(logits.data(), c.rows, {c.kind, c.experts, c.top_k, c.normalize, 1.8f, c.bias ? s.bias.data() : nullptr},
        ids.data(), weights.data());
  EXPECT_EQ(s.ids.download(), ids) << describe(c);
  EXPECT_EQ(verify::compare(weights, s.weights.download(), c.top_k, {.absolute = 1e-30, .relative = 4e-7}), "")
      << describe(c);
}

// The units of the choice, with the number after the turn that nobody has counted up.
void check_announced(const RouteCase& c, const Setup& s, const std::vector<int>& ids,
                     const std::vector<float>& weights) {
  const std::vector<uint4> units = s.units.download();
  int wrong = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    float weight = 0;
    std::memcpy(&weight, &units[i].z, sizeof weight);
    wrong += units[i].x != static_cast<unsigned>(ids[i]) || units[i].y != kTurn + 1 || units[i].w != kTurn + 1;
    wrong += !(weight == weights[i]);
  }
  EXPECT_EQ(wrong, 0) << describe(c) << ": announced";
  EXPECT_EQ(s.turn.download()[0], kTurn) << describe(c);
}

void check_route(const RouteCase& c) {
  Random random(static_cast<std::uint64_t>(c.n * 7 + c.rows * 131 + c.experts));
  Setup s(c, random);
  const std::size_t n = static_cast<std::size_t>(c.n), rows = static_cast<std::size_t>(c.rows);
  std::vector<float> sum = s.x, normed(s.x.size());
  for (std::size_t i = 0; c.add && i < sum.size(); ++i) sum[i] += s.add[i];
  kernels::rms_norm(sum.data(), c.n, s.norm_weight.data(), 1e-5f, c.rows, c.n, normed.data(), c.n);

  norm_and_route(s.call(c), nullptr);
  EXPECT_EQ(verify::compare_exact(sum, s.x_device.download()), "") << describe(c) << ": x";
  const std::vector<float> out_fp32 = s.out_fp32.download();
  EXPECT_EQ(verify::compare(normed, out_fp32, c.n, {.absolute = 1e-30, .relative = 2e-6}), "") << describe(c);
  const std::vector<HalfBits> halves = s.out.download();
  int wrong = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    for (int i = 0; i < s.padded; ++i) {
      const HalfBits expected = i < c.n ? saturated_half_bits(out_fp32[r * n + i]) : 0;
      wrong += halves[r * s.padded + i] != expected;
    }
  }
  EXPECT_EQ(wrong, 0) << describe(c) << ": halves";

  const std::vector<float> logits = s.logits.download();
  std::vector<float> expected, found;
  for (std::size_t r = 0; r < rows; ++r) {
    for (int e = 0; e < c.experts; ++e) {
      double dot = 0;
      for (std::size_t i = 0; i < n; ++i) dot += static_cast<double>(s.w.values[e * n + i]) * normed[r * n + i];
      if (e == c.nan_expert) {
        EXPECT_TRUE(std::isnan(logits[r * c.experts + e])) << describe(c);
        continue;
      }
      expected.push_back(static_cast<float>(dot));
      found.push_back(logits[r * c.experts + e]);
    }
  }
  const std::int64_t columns = static_cast<std::int64_t>(expected.size() / rows);
  EXPECT_EQ(verify::compare(expected, found, columns, {.absolute = 3e-5, .relative = 3e-6}), "") << describe(c);
  check_choice(c, s, logits);

  const std::vector<int> ids = s.ids.download();
  const std::vector<float> weights = s.weights.download();
  s.x_device.upload(s.x);
  for (auto* values : {&s.weights, &s.logits, &s.out_fp32}) values->poison(0x7F);
  s.ids.poison(0x7F);
  s.out.poison(0x7F);
  RouteCall again = s.call(c);
  again.announced = {s.units.get(), s.turn.get()};
  const bool announces_row = route_announces_row(again);
  if (announces_row) again.announced.row = s.row.get();
  again.read_next = s.w_device.get();
  again.read_next_bytes = static_cast<int>(s.w.bytes.size());
  norm_and_route(again, nullptr);
  EXPECT_EQ(s.row.download()[0], kTurn + (announces_row ? 1 : 0)) << describe(c);
  EXPECT_FALSE(announces_row && (c.rows > 1 || c.add)) << describe(c);
  EXPECT_EQ(s.ids.download(), ids) << describe(c);
  EXPECT_EQ(s.out.download(), halves) << describe(c);
  check_announced(c, s, ids, weights);
  if (c.nan_expert < 0) {
    EXPECT_EQ(verify::compare_exact(logits, s.logits.download()), "") << describe(c);
  }
  EXPECT_EQ(verify::compare_exact(weights, s.weights.download()), "") << describe(c);
}

constexpr RouteKind kSoftmax = RouteKind::kSoftmaxTopK, kSigmoid = RouteKind::kSigmoidBiasTopK;

TEST(GpuRoute, FewRows) {
  check_route({.n = 384, .rows = 1, .experts = 32, .top_k = 4, .kind = kSigmoid, .bias = true});
  check_route(
      {.n = 384, .rows = 3, .experts = 64, .top_k = 4, .kind = kSigmoid, .bias = true, .type = DenseType::kF32});
  check_route({.n = 384, .rows = 2, .experts = 128, .top_k = 8, .type = DenseType::kF16});
  check_route({.n = 136, .rows = 9, .experts = 7, .top_k = 3, .normalize = false, .add = false});
  check_route({.n = 8, .rows = 1, .experts = 1, .top_k = 1});
  check_route({.n = 128, .rows = 1, .experts = 9, .top_k = 9, .kind = kSigmoid, .normalize = false});
  check_route({.n = 128, .rows = 1, .experts = 256, .top_k = 8, .kind = kSigmoid, .bias = true});
  check_route({.n = 128, .rows = 1, .experts = 300, .top_k = 32, .bias = true});
}

// Without `add` one row has a kernel of its own.
TEST(GpuRoute, OneRow) {
  for (const DenseType type : kDenseTypes) {
    for (const bool bias : {false, true}) {
      check_route({.n = 2048,
                   .rows = 1,
                   .experts = 64,
                   .top_k = 4,
                   .kind = kSigmoid,
                   .bias = bias,
                   .add = false,
                   .type = type});
      check_route({.n = 384, .rows = 1, .experts = 128, .top_k = 8, .bias = bias, .add = false, .type = type});
    }
    check_route(
        {.n = 136, .rows = 1, .experts = 100, .top_k = 32, .kind = kSigmoid, .bias = true, .add = false, .type = type});
    check_route({.n = 8, .rows = 1, .experts = 1, .top_k = 1, .add = false, .type = type});
    check_route({.n = 264,
                 .rows = 1,
                 .experts = 9,
                 .top_k = 9,
                 .kind = kSigmoid,
                 .normalize = false,
                 .add = false,
                 .type = type});
    check_route({.n = 264, .rows = 1, .experts = 65, .top_k = 6, .normalize = false, .add = false, .type = type});
  }
  for (const RouteKind kind : {kSoftmax, kSigmoid}) {
    check_route(
        {.n = 64, .rows = 1, .experts = 24, .top_k = 5, .kind = kind, .add = false, .ties = true, .nan_expert = 6});
    check_route(
        {.n = 64, .rows = 1, .experts = 128, .top_k = 32, .kind = kind, .add = false, .ties = true, .nan_expert = 2});
    check_route({.n = 64, .rows = 1, .experts = 4, .top_k = 4, .kind = kind, .add = false, .nan_expert = 0});
  }
}

// From 17 rows on a cluster serves several.
TEST(GpuRoute, SeveralRowsOfACluster) {
  check_route({.n = 136, .rows = 17, .experts = 24, .top_k = 4, .kind = kSigmoid, .bias = true});
  check_route({.n = 384, .rows = 35, .experts = 64, .top_k = 4, .kind = kSigmoid, .bias = true});
  check_route({.n = 64, .rows = 33, .experts = 150, .top_k = 8, .type = DenseType::kF32});  // more than registers hold
  check_route({.n = 64, .rows = 96, .experts = 9, .top_k = 3, .add = false, .type = DenseType::kF16});
}

TEST(GpuRoute, LongRows) {
  for (const DenseType type : kDenseTypes) {
    check_route({.n = 2048, .rows = 1, .experts = 64, .top_k = 4, .kind = kSigmoid, .bias = true, .type = type});
    check_route({.n = 2056, .rows = 1, .experts = 72, .top_k = 4, .type = type});
    check_route({.n = 2056, .rows = 2, .experts = 20, .top_k = 4, .kind = kSigmoid, .type = type});
    check_route({.n = 7168, .rows = 1, .experts = 20, .top_k = 4, .type = type});
  }
}

TEST(GpuRoute, ManyRows) {
  check_route({.n = 64, .rows = 97, .experts = 32, .top_k = 4, .kind = kSigmoid, .bias = true});
  check_route({.n = 264, .rows = 100, .experts = 37, .top_k = 8, .type = DenseType::kF16});
  check_route({.n = 40, .rows = 97, .experts = 128, .top_k = 8, .add = false, .type = DenseType::kF32});
  for (const DenseType type : kDenseTypes) {
    check_route({.n = 7168, .rows = 97, .experts = 3, .top_k = 1, .kind = kSigmoid, .type = type});
  }
}

TEST(GpuRoute, AnyAlignment) {
  for (const DenseType type : kDenseTypes) {
    check_route({.n = 37, .rows = 3, .experts = 6, .top_k = 2, .type = type});
    check_route({.n = 7165, .rows = 5, .experts = 3, .top_k = 2, .type = type});
    check_route({.n = 64, .rows = 1, .experts = 40, .top_k = 8, .kind = kSigmoid, .type = type, .shift = 2});
  }
}

TEST(GpuRoute, EqualLogitsAndNan) {
  for (const int rows : {1, 97}) {
    for (const RouteKind kind : {kSoftmax, kSigmoid}) {
      check_route({.n = 64, .rows = rows, .experts = 24, .top_k = 5, .kind = kind, .ties = true, .nan_expert = 6});
      check_route({.n = 64, .rows = rows, .experts = 4, .top_k = 4, .kind = kind, .bias = true, .nan_expert = 0});
    }
  }
}

// The router's weights are the identity and a row of ones is normed to the norm's weight, so that becomes the logits.
void check_logits(std::vector<float> logits, int top_k, RouteKind kind, int rows) {
  const int experts = static_cast<int>(logits.size());
  RouteCase c{.n = experts,
              .rows = rows,
              .experts = experts,
              .top_k = top_k,
              .kind = kind,
              .add = false,
              .type = DenseType::kF32};
  Random random(1);
  Setup s(c, random);
  std::vector<float> identity(static_cast<std::size_t>(experts) * experts);
  for (int e = 0; e < experts; ++e) identity[static_cast<std::size_t>(e) * experts + e] = 1.0f;
  s.w_device.upload(StoredMatrix(identity, c.type, 0).bytes);
  s.x_device.upload(std::vector<float>(s.x.size(), 1.0f));
  s.norm_weight_device.upload(logits);
  RouteCall call = s.call(c);
  call.norm.eps = 0;
  norm_and_route(call, nullptr);
  const std::vector<float> found = s.logits.download();
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i], logits[i % logits.size()]);
  check_choice(c, s, found);
}

TEST(GpuRoute, ExtremeLogits) {
  std::vector<float> logits(64);
  for (int e = 0; e < 64; ++e) logits[e] = e % 3 == 0 ? 1e4f + static_cast<float>(e) : e % 3 == 1 ? -1e4f : 0.0f;
  logits[7] = -0.0f;
  std::vector<float> low(16, -3e38f), close(40), closer(256);
  low[9] = 3e38f;
  for (int e = 0; e < 40; ++e) close[e] = 17.0f + static_cast<float>(e % 7) * 0x1p-19f;  // sigmoid rounds them together
  // Neighbouring floats, whose sigmoids are mostly equal: a less exact one would order them otherwise.
  for (int e = 0; e < 256; ++e) closer[e] = 1.25f + static_cast<float>(e * 37 % 256) * 0x1p-23f;
  std::vector<float> near(112);  // the same for fewer experts, below zero
  for (int e = 0; e < 112; ++e) near[e] = -0.75f + static_cast<float>(e * 37 % 112) * 0x1p-24f;
  for (const int rows : {1, 97}) {
    for (const RouteKind kind : {kSoftmax, kSigmoid}) {
      check_logits(closer, 32, kind, 1);
      check_logits(logits, 8, kind, rows);
      check_logits(low, 4, kind, rows);
      check_logits(close, 6, kind, rows);
      check_logits(near, 16, kind, rows);
    }
  }
}

TEST(CudaRoute, NonsenseIsRefused) {
  RouteCall call{};
  call.norm.n = call.norm.padded = 128;
  call.norm.ldx = call.norm.ldo = 128;
  call.norm.rows = 1;
  call.experts = 4;
  call.top_k = 5;
  test::expect_error(ErrorKind::kUsage, {"norm_and_route", "5 of 4"}, [&] { norm_and_route(call, nullptr); });
  call.experts = 2000;
  test::expect_error(ErrorKind::kUnsupported, {"2000", "1024"}, [&] { norm_and_route(call, nullptr); });
  call.norm.rows = 0;
  test::expect_error(ErrorKind::kUsage, {"norm_and_route: 0 rows"}, [&] { norm_and_route(call, nullptr); });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
