// The machine's memory read rate, measured between the runs it is compared with.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/cpu/thread_pool.h"

namespace fairway::cli {

// A buffer too large for any cache, summed by all threads of a pool. Plain 4 KiB pages, as mapped weight files have.
class MachineCeiling {
 public:
  static constexpr std::int64_t kMinBytes = std::int64_t{512} << 20;

  // bytes <= 0: at least kMinBytes; four times the last-level cache if that is more and memory allows. Throws
  // Error(kResource).
  explicit MachineCeiling(std::int64_t bytes);
  MachineCeiling(const MachineCeiling&) = delete;
  MachineCeiling& operator=(const MachineCeiling&) = delete;

  std::int64_t bytes() const { return static_cast<std::int64_t>(words_) * 8; }

  // Reads the whole buffer once with every thread of the pool; bytes per second / 1e9.
  double measure_gb_per_second(backend::ThreadPool& pool);

 private:
  std::size_t words_;
  std::unique_ptr<std::uint64_t[]> buffer_;
  std::uint64_t checksum_;  // of the buffer, so that a pass that skipped a part would be noticed
};

}  // namespace fairway::cli
