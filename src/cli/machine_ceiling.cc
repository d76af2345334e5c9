// Streaming sums over a large buffer, byte products on registers, a chain of additions.
#include "cli/machine_ceiling.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <stdexcept>
#include <vector>

#include "backend/cpu/core_ceiling.h"
#include "backend/cpu/features.h"
#include "cli/report.h"
#include "fairway/error.h"

namespace fairway::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int kTasksPerThread = 16;                          // so that a core that is taken away costs its share only
constexpr std::int64_t kMacsPerTask = 100'000'000;           // 0.3 ms at 380 GMAC/s (VPDPBUSD on 512 bits at 3 GHz)
constexpr std::int64_t kAdditionsPerTask = 200'000;          // less than a time slice: most tasks are not interrupted
constexpr std::size_t kWordsPerTask = std::size_t{1} << 19;  // 4 MiB: many tasks per thread, so that none waits long

// Four times the cache leaves at most a quarter of the reads to it even if it keeps lines perfectly.
std::int64_t buffer_bytes(const backend::CpuInfo& cpu) {
  const std::int64_t wanted = std::max(MachineCeiling::kMinBytes, 4 * cpu.l3_bytes);
  return std::max(MachineCeiling::kMinBytes, std::min(wanted, cpu.memory_bytes / 8));
}

// Eight independent sums, or the additions would wait for each other instead of for memory.
std::uint64_t sum_words(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

double multiply_bytes(backend::ThreadPool& pool) {
  const backend::Int8Loop& loop = backend::int8_loop(backend::cpu_info().features);
  const std::int64_t steps = kMacsPerTask / loop.macs_per_step;
  const std::int64_t tasks = std::int64_t{kTasksPerThread} * pool.size();
  const double macs = static_cast<double>(tasks * steps * loop.macs_per_step);
  std::atomic<std::uint32_t> total{0};  // modulo 2^32, as each task's
  const auto start = Clock::now();
  pool.parallel_for(tasks, [&](std::int64_t, int) { total += loop.run(steps); });
  const double seconds = seconds_since(start);
  if (total.load() != static_cast<std::uint32_t>(tasks * steps * loop.macs_per_step)) {
    throw std::logic_error("the int8 ceiling loop did not do all of its products");
  }
  return macs / seconds / 1e9;
}

// Median of many short chains: one that was interrupted does not count as a slow clock.
double estimate_ghz(backend::ThreadPool& pool) {
  std::vector<double> ghz(static_cast<std::size_t>(kTasksPerThread) * static_cast<std::size_t>(pool.size()));
  pool.parallel_for(static_cast<std::int64_t>(ghz.size()), [&](std::int64_t task, int) {
    const auto start = Clock::now();
    const double additions = static_cast<double>(backend::dependent_additions(kAdditionsPerTask));
    ghz[static_cast<std::size_t>(task)] = additions / seconds_since(start) / 1e9;
  });
  return median(ghz);
}

}  // namespace

MachineCeiling::MachineCeiling(std::int64_t wanted) : checksum_(0) {
  const std::int64_t bytes = wanted > 0 ? wanted : buffer_bytes(backend::cpu_info());
  words_ = (static_cast<std::size_t>(bytes) / 8 / kWordsPerTask) * kWordsPerTask;
  buffer_.reset(new (std::nothrow) std::uint64_t[words_]);
  if (!buffer_) {
    throw Error(ErrorKind::kResource, fmt::format("measuring the memory ceiling needs a buffer of {} bytes", bytes));
  }
  for (std::size_t i = 0; i < words_; ++i) buffer_[i] = i;
  checksum_ = static_cast<std::uint64_t>(words_) * (words_ - 1) / 2;
}

double MachineCeiling::read_memory(backend::ThreadPool& pool) {
  std::atomic<std::uint64_t> total{0};
  const auto start = Clock::now();
  pool.parallel_for(static_cast<std::int64_t>(words_ / kWordsPerTask), [&](std::int64_t task, int) {
    total += sum_words(buffer_.get() + static_cast<std::size_t>(task) * kWordsPerTask, kWordsPerTask);
  });
  const double seconds = seconds_since(start);
  if (total.load() != checksum_) throw std::logic_error("the memory ceiling pass did not read its whole buffer");
  return static_cast<double>(bytes()) / seconds / 1e9;
}

Ceilings MachineCeiling::measure(backend::ThreadPool& pool) {
  const double gb_per_second = read_memory(pool);
  return {gb_per_second, multiply_bytes(pool), estimate_ghz(pool)};
}

}  // namespace fairway::cli
