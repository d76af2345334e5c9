// What the machine can do at most, measured between the runs that are compared with it.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/cpu/thread_pool.h"

namespace fairway::cli {

struct Ceilings {
  double gb_per_second;    // memory reads
  double gmac_per_second;  // byte multiply-adds on registers, with the instruction of backend::int8_loop
  double core_ghz;         // one dependent addition per cycle
};

// Memory: a buffer too large for any cache, summed by all threads of a pool. Plain 4 KiB pages, as mapped weight files
// have.
class MachineCeiling {
 public:
  static constexpr std::int64_t kMinBytes = std::int64_t{512} << 20;

  // bytes <= 0: at least kMinBytes; four times the last-level cache if that is more and memory allows. Throws
  // Error(kResource).
  explicit MachineCeiling(std::int64_t bytes);
  MachineCeiling(const MachineCeiling&) = delete;
  MachineCeiling& operator=(const MachineCeiling&) = delete;

  std::int64_t bytes() const { return static_cast<std::int64_t>(words_) * 8; }

  // With every thread of the pool: one pass over the buffer, then some milliseconds for the other two.
  Ceilings measure(backend::ThreadPool& pool);

 private:
  double read_memory(backend::ThreadPool& pool);

  std::size_t words_;
  std::unique_ptr<std::uint64_t[]> buffer_;
  std::uint64_t checksum_;  // of the buffer, so that a pass that skipped a part would be noticed
};

}  // namespace fairway::cli
