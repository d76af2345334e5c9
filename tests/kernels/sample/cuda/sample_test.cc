// Greedy choice and log-probabilities on the device.
#include "kernels/sample/sample.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/expect_error.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/device_values.cuh"
#include "kernels/sample/cuda/sample_cuda.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int> cpu_greedy(const std::vector<float>& logits, std::size_t ld, std::size_t vocab) {
  std::vector<int> ids;
  Sampler sampler({}, 1);
  for (std::size_t at = 0; at < logits.size(); at += ld) {
    ids.push_back(sampler.sample({logits.data() + at, vocab}, {}));
  }
  return ids;
}

void check_greedy(const std::vector<float>& logits, int ld, int vocab) {
  const int rows = static_cast<int>(logits.size()) / ld;
  const DeviceValues<float> device(logits);
  const DeviceValues<int> ids(static_cast<std::size_t>(rows));
  greedy({device.get(), ld, vocab, rows, ids.get(), nullptr, nullptr, 0}, nullptr);
  EXPECT_EQ(ids.download(), cpu_greedy(logits, static_cast<std::size_t>(ld), static_cast<std::size_t>(vocab)))
      << fmt::format("{} rows of {}, stride {}", rows, vocab, ld);
}

TEST(GpuGreedy, TheLargestAndOfEqualOnesTheFirst) {
  Random random(1);
  for (const int vocab : by_size<std::vector<int>>({1, 2, 5, 33, 1000, 4099, 8192, 40001}, {1, 33, 1000, 4099})) {
    const int rows = vocab < 100 ? 3 : 1;
    check_greedy(random_floats(random, static_cast<std::size_t>(rows * vocab)), vocab, vocab);
  }
  std::vector<float> few(static_cast<std::size_t>(2 * 1004));  // many ties; larger ones behind the vocabulary
  for (float& v : few) v = static_cast<float>(random.below(3));
  for (int i = 1001; i < 1004; ++i) few[i] = few[1004 + i] = 9.0f;
  check_greedy(few, 1004, 1001);
  check_greedy(few, 1004, 1000);
}

TEST(GpuGreedy, TheWholeVocabularyOfALargeModel) {
  Random random(2);
  std::vector<float> logits = random_floats(random, 154880);
  check_greedy(logits, 154880, 154880);
  logits[154879] = 100.0f;
  check_greedy(logits, 154880, 154880);
}

TEST(GpuGreedy, NanNeverWins) {
  std::vector<float> rows(4 * 64, kNan);
  rows[64 + 17] = -3.0f;
  rows[2 * 64 + 9] = -kInfinity;
  rows[3 * 64 + 40] = rows[3 * 64 + 50] = kInfinity;
  check_greedy(rows, 64, 64);
}

TEST(GpuGreedy, PositionAndHistory) {
  constexpr int kVocab = 12, kStride = 5;
  Random random(3);
  const std::vector<float> logits = random_floats(random, 4 * kVocab);
  const DeviceValues<float> device(logits);
  const DeviceValues<int> ids(4), position(std::vector<int>{0, 3, 4, -2}), history(4 * kStride);
  greedy({device.get(), kVocab, kVocab, 4, ids.get(), position.get(), history.get(), kStride}, nullptr);
  const std::vector<int> chosen = ids.download();
  EXPECT_EQ(chosen, cpu_greedy(logits, kVocab, kVocab));
  EXPECT_EQ(position.download(), (std::vector<int>{1, 4, 5, -1}));
  std::vector<int> expected(4 * kStride, -1);
  expected[1] = chosen[0];
  expected[kStride + 4] = chosen[1];
  expected[2 * kStride] = chosen[2];  // 5 modulo the stride; the last row has no position yet
  EXPECT_EQ(history.download(), expected);
}

double reference_logprob(const float* logits, int vocab, int target) {
  double top = -INFINITY, sum = 0;
  for (int i = 0; i < vocab; ++i) top = std::max(top, static_cast<double>(logits[i]));
  for (int i = 0; i < vocab; ++i) sum += std::exp(logits[i] - top);
  return logits[target] - top - std::log(sum);
}

TEST(GpuLogprob, AgreesWithDoublePrecision) {
  Random random(4);
  for (const int vocab : by_size<std::vector<int>>({1, 7, 512, 4099, 8192}, {7, 512, 4099})) {
    for (const float scale : {0.1f, 12.0f}) {
      const int rows = vocab < 100 ? 3 : 1;
      const std::vector<float> logits = random_floats(random, static_cast<std::size_t>(rows * vocab), scale);
      std::vector<int> targets;
      std::vector<float> expected;
      for (int r = 0; r < rows; ++r) {
        targets.push_back(random.below(vocab));
        expected.push_back(static_cast<float>(reference_logprob(logits.data() + r * vocab, vocab, targets.back())));
      }
      const DeviceValues<float> device(logits);
      const DeviceValues<int> targets_device(targets);
      DeviceValues<float> out(static_cast<std::size_t>(rows));
      const LogprobCall call{device.get(), vocab, vocab, rows, targets_device.get(), out.get()};
      logprob(call, nullptr);
      const std::vector<float> first = out.download();
      EXPECT_EQ(verify::compare(expected, first, rows, {.absolute = 1e-6, .relative = 1e-6}), "") << vocab;
      out.poison(0x7F);
      logprob(call, nullptr);
      EXPECT_EQ(verify::compare_exact(first, out.download()), "") << vocab;
    }
  }
}

TEST(GpuLogprob, RowsWithoutAnAnswer) {
  constexpr int kVocab = 40;
  std::vector<float> logits(7 * kVocab, 0.5f);
  logits[1] = kNan;
  logits[kVocab + 30] = kInfinity;
  for (int i = 0; i < kVocab; ++i) logits[2 * kVocab + i] = -kInfinity;
  for (int i = 0; i < kVocab; ++i) logits[5 * kVocab + i] = i == 3 ? -1e30f : -kInfinity;
  const std::vector<int> targets{0, 0, 0, -1, kVocab, 3, 7};
  const DeviceValues<float> device(logits), out(7);
  const DeviceValues<int> targets_device(targets);
  logprob({device.get(), kVocab, kVocab, 7, targets_device.get(), out.get()}, nullptr);
  const std::vector<float> values = out.download();
  for (const int r : {0, 1, 2, 3, 4}) EXPECT_TRUE(std::isnan(values[r])) << r;
  EXPECT_EQ(values[5], 0.0f);
  EXPECT_FLOAT_EQ(values[6], static_cast<float>(-std::log(40.0)));
}

// Rows of the same vocabulary; row r is drawn `draws` times with the seed r. The CPU's sampler must draw the same.
void check_sample_top(const std::vector<float>& logits, int vocab, const SampleParams& params, int draws) {
  const std::size_t rows = logits.size() / static_cast<std::size_t>(vocab);
  std::vector<unsigned long long> states;
  std::vector<Sampler> samplers;
  for (std::size_t r = 0; r < rows; ++r) {
    states.push_back(1000 + 77 * r);
    samplers.emplace_back(params, 1000 + 77 * r);
  }
  const DeviceValues<float> device(logits);
  const DeviceValues<unsigned long long> states_device(states);
  const DeviceValues<int> ids(rows);
  for (int d = 0; d < draws; ++d) {
    std::vector<int> expected;
    for (std::size_t r = 0; r < rows; ++r) {
      expected.push_back(samplers[r].sample({logits.data() + r * vocab, static_cast<std::size_t>(vocab)}, {}));
    }
    sample_top({device.get(), vocab, vocab, static_cast<int>(rows), params.temperature, params.top_k, params.top_p,
                params.min_p, states_device.get(), ids.get(), nullptr, nullptr, 0},
               nullptr);
    EXPECT_EQ(ids.download(), expected) << fmt::format("{} rows of {}, temperature {}, top_k {}, top_p {}, min_p {}",
                                                       rows, vocab, params.temperature, params.top_k, params.top_p,
                                                       params.min_p);
  }
  if (params.temperature == 0) {
    EXPECT_EQ(states_device.download(), states) << "nothing was drawn";
  }
}

const int kDraws = by_size(50, 1), kManyDraws = by_size(100, 2, 1);

TEST(GpuSampleTop, DrawsAsTheCpu) {
  Random random(5);
  const std::vector<int> sizes{1, 7, 500, 6000};
  for (const int vocab : by_size(sizes, sizes, {7, 6000})) {
    const std::vector<float> logits =
        random_floats(random, static_cast<std::size_t>(vocab < 1000 ? 3 * vocab : vocab), 2.0f);
    for (const SampleParams& params :
         {SampleParams{.temperature = 1.0f}, SampleParams{.temperature = 0.7f, .top_k = 5},
          SampleParams{.temperature = 0.8f, .top_p = 0.9f}, SampleParams{.temperature = 1.3f, .min_p = 0.05f},
          SampleParams{.temperature = 0.9f, .top_k = 40, .top_p = 0.8f, .min_p = 0.02f},
          SampleParams{.temperature = 1.0f, .top_p = 0.05f, .min_p = 0.9f}, SampleParams{.temperature = 0.0f},
          SampleParams{.temperature = 2.0f, .top_k = 100000, .top_p = 0.999f}}) {
      check_sample_top(logits, vocab, params, kDraws);
    }
  }
}

TEST(GpuSampleTop, EqualLogits) {
  Random random(6);
  std::vector<float> logits(static_cast<std::size_t>(4 * 300));
  for (float& v : logits) v = static_cast<float>(random.below(4)) * 0.5f;
  for (const SampleParams& params : {SampleParams{.temperature = 1.0f}, SampleParams{.temperature = 1.0f, .top_k = 17},
                                     SampleParams{.temperature = 1.0f, .top_p = 0.3f},
                                     SampleParams{.temperature = 1.0f, .top_k = 200, .top_p = 0.7f},
                                     SampleParams{.temperature = 0.5f, .min_p = 0.5f}}) {
    check_sample_top(logits, 300, params, kManyDraws);
  }
}

TEST(GpuSampleTop, LogitsThatAreNoNumbers) {
  constexpr int kVocab = 64;
  std::vector<float> logits(5 * kVocab, kNan);
  for (int i = 0; i < kVocab; ++i)
    logits[kVocab + i] = i % 5 == 0 ? kNan : i % 5 == 1 ? -kInfinity : 0.1f * static_cast<float>(i);
  logits[2 * kVocab + 9] = kInfinity;
  for (int i = 0; i < kVocab; ++i) logits[3 * kVocab + i] = -kInfinity;
  for (int i = 0; i < kVocab; ++i) logits[4 * kVocab + i] = i % 2 == 0 ? 0.0f : -0.0f;
  for (const SampleParams& params : {SampleParams{.temperature = 1.0f}, SampleParams{.temperature = 1.0f, .top_k = 9},
                                     SampleParams{.temperature = 1.0f, .top_p = 0.5f}}) {
    check_sample_top(logits, kVocab, params, kManyDraws);
  }
}

TEST(GpuSampleTopFull, TheWholeVocabularyOfALargeModel) {
  Random random(7);
  for (const int vocab : {154880, kMaxSampledVocabulary}) {
    const std::vector<float> logits = random_floats(random, static_cast<std::size_t>(vocab), 3.0f);
    for (const SampleParams& params :
         {SampleParams{.temperature = 1.0f}, SampleParams{.temperature = 0.7f, .top_k = 20, .top_p = 0.8f},
          SampleParams{.temperature = 0.6f, .top_p = 0.95f}}) {
      check_sample_top(logits, vocab, params, kDraws);
    }
  }
}

TEST(GpuSampleTop, PositionAndHistory) {
  constexpr int kVocab = 12, kStride = 5;
  const std::vector<float> logits(2 * kVocab, 1.0f);
  const DeviceValues<float> device(logits);
  const DeviceValues<unsigned long long> states(std::vector<unsigned long long>{1, 2});
  const DeviceValues<int> ids(2), position(std::vector<int>{1, 4}), history(2 * kStride);
  sample_top({device.get(), kVocab, kVocab, 2, 1.0f, 3, 1.0f, 0.0f, states.get(), ids.get(), position.get(),
              history.get(), kStride},
             nullptr);
  EXPECT_EQ(position.download(), (std::vector<int>{2, 5}));
  std::vector<int> expected(2 * kStride, -1);
  expected[2] = ids.download()[0];
  expected[kStride] = ids.download()[1];
  EXPECT_EQ(history.download(), expected);
  EXPECT_LT(expected[2], 3);
}

TEST(CudaSample, NonsenseIsRefused) {
  test::expect_error(ErrorKind::kUsage, {"greedy", "0 rows of 8"}, [] {
    greedy({nullptr, 8, 8, 0, nullptr, nullptr, nullptr, 0}, nullptr);
  });
  int history = 0;
  test::expect_error(ErrorKind::kUsage, {"history needs positions"}, [&] {
    greedy({nullptr, 8, 8, 1, nullptr, nullptr, &history, 1}, nullptr);
  });
  SampleTopCall call{};
  call.rows = 1;
  call.vocab = 8;
  call.ld = 8;
  call.top_p = 0;
  test::expect_error(ErrorKind::kUsage, {"sample_top", "top_p is 0"}, [&] { sample_top(call, nullptr); });
  call.top_p = 1;
  call.vocab = 200000;
  call.ld = 200000;
  test::expect_error(ErrorKind::kUnsupported, {"200000", "163840"}, [&] { sample_top(call, nullptr); });
  test::expect_error(ErrorKind::kUsage, {"logprob", "row stride 7"}, [] {
    logprob({nullptr, 7, 8, 1, nullptr, nullptr}, nullptr);
  });
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
