// Attention on the device against double precision: both caches, both shapes of heads, few rows and many.
#include "kernels/common/cuda/attend.cuh"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "backend/cuda/graph.h"
#include "backend/cuda/native.cuh"
#include "backend/cuda/stream.h"
#include "fairway/error.h"
#include "kernels/common/cuda/attend_problem.cuh"
#include "kernels/common/cuda/case_size.h"

namespace fairway::kernels::cuda::check {
namespace {

const int kLong = by_size(16384, 600), kManyRows = by_size(150, 9);
const int kTurns[] = {by_size(20000, 1000), by_size(33000, 1471)};

constexpr CacheType kTypes[] = {CacheType::kHalf, CacheType::kE4m3};

AttendCase glm(CacheType type, std::vector<int> positions) {
  return {"MLA 20 x 576/512", 20, 1, 576, 512, true, type, std::move(positions)};
}
AttendCase demo(CacheType type, std::vector<int> positions) {
  return {"MLA 8 x 160/128", 8, 1, 160, 128, true, type, std::move(positions)};
}
AttendCase gqa(int heads, int kv_heads, CacheType type, std::vector<int> positions) {
  return {"GQA " + std::to_string(heads) + "/" + std::to_string(kv_heads),
          heads,
          kv_heads,
          128,
          128,
          false,
          type,
          std::move(positions)};
}
AttendCase prefill(AttendCase shape, int start, int rows) {
  shape.positions.resize(static_cast<std::size_t>(rows));
  std::iota(shape.positions.begin(), shape.positions.end(), start);
  shape.one_sequence = true;
  shape.name += ", one sequence from " + std::to_string(start);
  return shape;
}

TEST(GpuAttend, RowsOfDifferentLengths) {
  for (const CacheType type : kTypes) {
    check_attend(glm(type, {0, 64, 130}), 1);
    check_attend(demo(type, {0, 1, 62, 63, 64, 65, 299}), 2);
    check_attend(gqa(32, 4, type, {0, 62, 63, 64, 200}), 3);
  }
}

TEST(GpuAttend, GroupsOfOtherSizes) {
  for (const CacheType type : kTypes) {
    check_attend(gqa(3, 3, type, {70, 5}), 10);
    check_attend(gqa(4, 2, type, {5, 127}), 11);
    check_attend(gqa(10, 2, type, {128, 0}), 12);
    check_attend(gqa(32, 2, type, {100}), 13);
    check_attend(gqa(40, 1, type, {64, 90}), 14);
    check_attend(gqa(67, 1, type, {64, 90}), 15);
  }
}

TEST(GpuAttend, OtherDimensions) {
  for (const CacheType type : kTypes) {
    AttendCase odd{"GQA 6/2 of 80/48", 6, 2, 80, 48, false, type, {77, 12}};
    odd.unused_elems = 16;
    check_attend(odd, 20);
    check_attend({"MLA 30 x 48/16", 30, 1, 48, 16, true, type, {77, 12}}, 21);
    check_attend({"MLA 2 x 208/192", 2, 1, 208, 192, true, type, {66}}, 22);
  }
}

TEST(GpuAttend, OneSequence) {
  for (const CacheType type : kTypes) {
    check_attend(prefill(glm(type, {}), 100, 5), 30);
    check_attend(prefill(demo(type, {}), 0, kManyRows), 31);
    check_attend(prefill(demo(type, {}), 61, 2), 32);
    check_attend(prefill(gqa(32, 4, type, {}), 120, kManyRows), 33);
    check_attend(prefill(gqa(4, 4, type, {}), 0, 70), 34);
    check_attend(prefill(gqa(5, 1, type, {}), 33, 1), 35);
  }
}

TEST(GpuAttend, LongContexts) {
  for (const CacheType type : kTypes) {
    AttendCase one = demo(type, {kLong});
    check_attend(one, 40);
    one.max_context = 100;  // too small: fewer splits, the same result
    check_attend(one, 41);
    check_attend(gqa(8, 2, type, {kLong, 3}), 42);
    AttendCase short_of_it = gqa(8, 1, type, {130, 3});  // most splits have nothing to do
    short_of_it.max_context = 65536;
    check_attend(short_of_it, 43);
    check_attend(prefill(demo(type, {}), kLong - 20, 11), 44);
  }
  check_attend(glm(CacheType::kHalf, {kLong / 2}), 45);
}

// Single rows of latent attention: more positions for a CTA than it has room for at a time, and exactly as many.
TEST(GpuAttend, LatentOfSeveralTurns) {
  for (const CacheType type : kTypes) {
    for (const int position : kTurns) {
      AttendCase one = demo(type, {position});
      one.fresh = position % 2;
      check_attend(one, 90);
    }
    check_attend(demo(type, {767}), 91);
    AttendCase large = glm(type, {500});
    large.size = 300;
    large.fresh = 1;
    check_attend(large, 92, 3e-3);
  }
}

// What is loaded early and what is loaded late make up a tile.
TEST(GpuAttend, FreshPositions) {
  for (const CacheType type : kTypes) {
    AttendCase rows = demo(type, {0, 1, 63, 64, 100, 130});
    for (const int fresh : {1, 2, 100}) {
      rows.fresh = fresh;
      check_attend(rows, 80);
    }
    AttendCase one = prefill(gqa(32, 4, type, {}), 120, kManyRows);
    one.fresh = kManyRows;
    check_attend(one, 81);
  }
}

// Scores of some hundreds: one position has nearly all the weight, and exponents without a maximum would overflow.
// An error of 2^-22 of a sum of products of that size is 1e-4 of a probability.
TEST(GpuAttend, LargeScores) {
  for (const CacheType type : kTypes) {
    AttendCase large = demo(type, {200, 64, 3});
    large.size = 300;
    check_attend(large, 50, 3e-3);
    AttendCase many = prefill(gqa(16, 2, type, {}), 90, 9);
    many.size = 300;
    check_attend(many, 51, 3e-3);
  }
}

TEST(GpuAttend, AReplayAttendsToThePositionsOfItsTime) {
  AttendCase shape = gqa(8, 2, CacheType::kHalf, {190, 64, 128});
  AttendProblem problem(shape, 60);
  backend::CudaStream stream(0);
  const backend::CudaGraph graph(stream, [&] { attend(problem.call(), problem.workspace(), backend::native(stream)); });
  for (const std::vector<int>& positions : {std::vector<int>{190, 64, 128}, {5, 63, 127}, {64, 0, 1}}) {
    problem.set_positions(positions);
    graph.replay(stream);
    stream.wait();
    EXPECT_EQ(verify::compare(problem.reference(), problem.output(), shape.value_dim, {.row_relative = kAttendBound}),
              "");
  }
}

TEST(GpuAttend, WhatIsOutOfRangeIsRefused) {
  AttendProblem problem(gqa(8, 2, CacheType::kHalf, {5}), 70);
  const AttendCall good = problem.call();
  const auto refuses = [&](AttendCall call) {
    EXPECT_THROW(attend(call, problem.workspace(), nullptr), Error);
    EXPECT_THROW((void)attend_workspace_bytes(call), Error);
  };
  AttendCall call = good;
  call.key_dim = 120;
  refuses(call);
  call = good, call.value_dim = 528;
  refuses(call);
  call = good, call.kv_heads = 3;
  refuses(call);
  call = good, call.value_offset += 16;
  refuses(call);
  call = good, call.key_offset = 8;
  refuses(call);
  call = good, call.rows.count = 0;
  refuses(call);
  call = good, call.max_context = 0;
  refuses(call);
}

}  // namespace
}  // namespace fairway::kernels::cuda::check
