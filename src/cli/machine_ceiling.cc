// Streaming sums over a large buffer.
#include "cli/machine_ceiling.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>

#include "backend/cpu/features.h"
#include "fairway/error.h"

namespace fairway::cli {
namespace {

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

double MachineCeiling::measure_gb_per_second(backend::ThreadPool& pool) {
  std::atomic<std::uint64_t> total{0};
  const auto start = std::chrono::steady_clock::now();
  pool.parallel_for(static_cast<std::int64_t>(words_ / kWordsPerTask), [&](std::int64_t task, int) {
    total += sum_words(buffer_.get() + static_cast<std::size_t>(task) * kWordsPerTask, kWordsPerTask);
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (total.load() != checksum_) throw std::logic_error("the memory ceiling pass did not read its whole buffer");
  return static_cast<double>(bytes()) / seconds / 1e9;
}

}  // namespace fairway::cli
