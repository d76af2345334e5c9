// Tests of the scratch stack: alignment, separation, scopes, reuse and the error for impossible sizes.
#include "backend/cpu/workspace.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/features.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

TEST(Workspace, AlignedAndSeparate) {
  Workspace ws;
  const Workspace::Scope scope(ws);
  std::vector<std::pair<std::uint8_t*, std::size_t>> parts;
  for (const std::size_t bytes : {1u, 63u, 64u, 65u, 1000u, 1u << 20, 3u, 3u << 20, 0u, 17u}) {
    auto* const p = ws.alloc<std::uint8_t>(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 64, 0u);
    std::memset(p, static_cast<int>(parts.size() + 1), bytes);
    parts.emplace_back(p, bytes);
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (std::size_t b = 0; b < parts[i].second; ++b) ASSERT_EQ(parts[i].first[b], i + 1) << "part " << i;
  }
}

TEST(Workspace, ScopeGivesBack) {
  Workspace ws;
  float* first;
  {
    const Workspace::Scope scope(ws);
    first = ws.alloc<float>(100);
  }
  const Workspace::Scope scope(ws);
  EXPECT_EQ(ws.alloc<float>(100), first);
}

TEST(Workspace, RepeatedPassesDoNotGrow) {
  Workspace ws;
  std::size_t reserved = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const Workspace::Scope outer(ws);
    ws.alloc<float>(10);
    ws.alloc<float>(3 << 20);
    for (int layer = 0; layer < 4; ++layer) {
      const Workspace::Scope inner(ws);
      ws.alloc<float>(1 << 20);
      ws.alloc<float>(5);
    }
    ws.alloc<float>(7);
    if (pass == 0) reserved = ws.reserved_bytes();
    EXPECT_EQ(ws.reserved_bytes(), reserved);
  }
}

// A stack in any order of sizes and scopes never hands out memory that is still in use.
TEST(Workspace, RandomNestingKeepsContents) {
  const unsigned seed = 20240611;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Workspace ws;
  struct Recurse {
    Workspace& ws;
    std::mt19937& random;
    std::uint8_t next = 1;
    void level(int depth) {
      const Workspace::Scope scope(ws);
      std::vector<std::pair<std::uint8_t*, std::size_t>> parts;
      std::vector<std::uint8_t> marks;
      const int count = static_cast<int>(random() % 4);
      for (int i = 0; i < count; ++i) {
        const std::size_t bytes = random() % (random() % 4 == 0 ? 3'000'000 : 3000);
        parts.emplace_back(ws.alloc<std::uint8_t>(bytes), bytes);
        marks.push_back(next++);
        if (bytes > 0) std::memset(parts.back().first, marks.back(), bytes);
        if (depth > 0) level(depth - 1);
      }
      for (std::size_t i = 0; i < parts.size(); ++i) {
        const auto [p, bytes] = parts[i];
        if (bytes == 0) continue;
        ASSERT_EQ(p[0], marks[i]);
        ASSERT_EQ(std::memcmp(p, p + 1, bytes - 1), 0);
      }
    }
  };
  Recurse recurse{ws, random};
  for (int round = 0; round < 30; ++round) recurse.level(3);
  EXPECT_LT(ws.reserved_bytes(), std::size_t{60} << 20);
}

void expect_resource_error(std::size_t count) {
  Workspace ws;
  const Workspace::Scope scope(ws);
  auto* const before = ws.alloc<double>(4);
  before[3] = 1.5;
  try {
    ws.alloc<double>(count);
    FAIL() << count << " doubles were allocated";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kResource);
    EXPECT_NE(std::string(e.what()).find(std::to_string(count)), std::string::npos) << e.what();
  }
  EXPECT_EQ(before[3], 1.5);
  EXPECT_NE(ws.alloc<double>(4), before) << "the workspace must stay usable";
}

TEST(Workspace, HugeRequestsAreErrors) {
  ASSERT_GT(cpu_info().memory_bytes, 0);
  expect_resource_error(static_cast<std::size_t>(cpu_info().memory_bytes));
  expect_resource_error(std::numeric_limits<std::size_t>::max());
  expect_resource_error(std::numeric_limits<std::size_t>::max() / 8 + 2);  // count * 8 would wrap to 8
}

}  // namespace
}  // namespace fairway::backend
