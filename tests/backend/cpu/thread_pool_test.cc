// Tests of the thread pool: every task exactly once, visibility of results, many tiny jobs, more threads than
// processors.
#include "backend/cpu/thread_pool.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "backend/cpu/features.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

TEST(ThreadPool, DefaultSizeIsTheAffinityMask) {
  EXPECT_EQ(ThreadPool(0).size(), cpu_info().cores);
  EXPECT_EQ(ThreadPool(-1).size(), cpu_info().cores);
  EXPECT_EQ(ThreadPool(3).size(), 3);
}

TEST(ThreadPool, AbsurdSizeIsAnError) {
  try {
    ThreadPool pool(1'000'000);
    FAIL() << "a million threads were accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(e.what()).find("1000000"), std::string::npos) << e.what();
  }
}

class ThreadPoolSizes : public testing::TestWithParam<int> {};

// Plain, not atomic, cells: a task run twice or a result not yet visible is a data race or a wrong count.
TEST_P(ThreadPoolSizes, EveryTaskRunsOnceOnAValidWorker) {
  ThreadPool pool(GetParam());
  for (const int tasks : {0, 1, 2, 3, 7, 64, 1000, 5, 2, 1, 4096}) {
    std::vector<int> runs(static_cast<std::size_t>(tasks), 0);
    std::atomic<int> bad_workers{0};
    pool.parallel_for(tasks, [&](std::int64_t task, int worker) {
      if (worker < 0 || worker >= pool.size()) bad_workers.fetch_add(1);
      ++runs[static_cast<std::size_t>(task)];
    });
    EXPECT_EQ(bad_workers.load(), 0);
    for (int i = 0; i < tasks; ++i) ASSERT_EQ(runs[static_cast<std::size_t>(i)], 1) << "task " << i << " of " << tasks;
  }
}

// Tiny jobs back to back: workers of one job meet the next one at every possible moment. Each job's tasks read what
// the one before wrote, and the body lives on the caller's stack, so a late worker would use a dead body.
TEST_P(ThreadPoolSizes, ManyTinyJobs) {
  ThreadPool pool(GetParam());
  std::vector<std::uint64_t> cells(8, 0);
  const int jobs = 20000;
  for (int job = 0; job < jobs; ++job) {
    const int tasks = 1 + job % 8;
    const auto expected = static_cast<std::uint64_t>(job);
    std::uint64_t wrong[8] = {};
    pool.parallel_for(tasks, [&](std::int64_t task, int) {
      const auto t = static_cast<std::size_t>(task);
      wrong[t] = cells[t] != expected ? 1 : 0;
      cells[t] = expected + 1;
    });
    for (int t = 0; t < tasks; ++t) ASSERT_EQ(wrong[t], 0u) << "job " << job << " task " << t;
    for (int t = tasks; t < 8; ++t) ++cells[static_cast<std::size_t>(t)];
  }
}

// One worker per id at a time: scratch memory is indexed by it.
TEST_P(ThreadPoolSizes, WorkerIdsAreExclusive) {
  ThreadPool pool(GetParam());
  std::vector<std::uint64_t> counts(static_cast<std::size_t>(pool.size()) * 8, 0);
  std::uint64_t expected = 0;
  for (int job = 0; job < 500; ++job) {
    pool.parallel_for(50, [&](std::int64_t, int worker) { ++counts[static_cast<std::size_t>(worker) * 8]; });
    expected += 50;
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t c : counts) sum += c;
  EXPECT_EQ(sum, expected);
}

// Sleeping workers must wake, and a sleeping caller must be woken by the last worker.
TEST_P(ThreadPoolSizes, WakesAfterPauses) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 10; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> done{0};
    pool.parallel_for(2 * pool.size(), [&](std::int64_t task, int worker) {
      if (worker != 0 || task % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      done.fetch_add(1, std::memory_order_relaxed);
    });
    EXPECT_EQ(done.load(), 2 * pool.size());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolSizes, testing::Values(1, 2, 3, 8));

// With two tasks that wait for each other the job can only end if a second thread really takes part.
TEST(ThreadPool, TasksRunAtTheSameTime) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> arrived{0};
    pool.parallel_for(2, [&](std::int64_t, int) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(arrived.load(), 2);
  }
}

// A worker that is late by far more than a task takes, as one whose processor was taken away, is left out for a while
// and comes back.
TEST(ThreadPool, LateWorkersAreLeftOutForAWhile) {
  using Clock = std::chrono::steady_clock;
  if (cpu_info().cores < 2) {  // more threads than processors: nobody is left out, by design
    fmt::print("not run here: late workers (one processor, the test needs two)\n");
    return;
  }
  ThreadPool pool(2);
  const auto job = [&](const auto& on_worker) {
    pool.parallel_for(64, [&](std::int64_t, int worker) {
      const auto end = Clock::now() + std::chrono::microseconds(20);
      if (worker == 1) on_worker();
      while (Clock::now() < end) {
      }
    });
  };
  std::atomic<int> stalls{0};
  while (stalls.load() == 0) {
    job([&] {
      if (stalls.fetch_add(1) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(15));
    });
  }
  const auto stalled = Clock::now();
  std::atomic<int> taken{0};
  const auto count = [&] { taken.fetch_add(1); };
  while (Clock::now() - stalled < std::chrono::milliseconds(20)) job(count);
  EXPECT_EQ(taken.load(), 0) << "the late worker took tasks at once";
  while (taken.load() == 0 && Clock::now() - stalled < std::chrono::seconds(20)) job(count);
  EXPECT_GT(taken.load(), 0) << "the late worker never came back";
}

TEST(ThreadPool, SeveralPoolsSideBySide) {
  std::vector<std::thread> drivers;
  std::vector<std::int64_t> sums(3, 0);
  for (std::size_t d = 0; d < sums.size(); ++d) {
    drivers.emplace_back([&sums, d] {
      ThreadPool pool(3);
      for (int job = 0; job < 200; ++job) {
        std::atomic<std::int64_t> sum{0};
        pool.parallel_for(17, [&](std::int64_t task, int) { sum.fetch_add(task); });
        sums[d] += sum.load();
      }
    });
  }
  for (std::thread& driver : drivers) driver.join();
  for (const std::int64_t sum : sums) EXPECT_EQ(sum, 200 * 136);
}

TEST(ThreadPool, StartsAndStopsQuickly) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(4);
    if (i % 2 == 0) continue;
    std::atomic<int> ran{0};
    pool.parallel_for(4, [&](std::int64_t, int) { ran.fetch_add(1); });
    ASSERT_EQ(ran.load(), 4);
  }
}

}  // namespace
}  // namespace fairway::backend
