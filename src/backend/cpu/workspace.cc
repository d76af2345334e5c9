// The scratch stack: bumps through 64-byte aligned blocks and keeps them for the next pass.
#include "backend/cpu/workspace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

#include "backend/cpu/features.h"
#include "fairway/error.h"

namespace fairway::backend {
namespace {

constexpr std::size_t kAlignment = 64;       // one cache line, one AVX-512 register
constexpr std::size_t kMinBlock = 1u << 20;  // small requests share a block
constexpr std::size_t kUnknownMemory = std::numeric_limits<std::size_t>::max() / 2;

std::size_t memory_limit() {
  const std::int64_t memory = cpu_info().memory_bytes;
  return memory > 0 ? static_cast<std::size_t>(memory) : kUnknownMemory;
}

[[noreturn]] void throw_too_large(std::size_t count, std::size_t element_bytes) {
  throw Error(ErrorKind::kResource,
              fmt::format("cannot allocate scratch memory of {} x {} bytes; this machine has {} bytes", count,
                          element_bytes, cpu_info().memory_bytes));
}

}  // namespace

void Workspace::FreeDeleter::operator()(std::byte* p) const {
  std::free(p);
}

std::size_t Workspace::reserved_bytes() const {
  std::size_t sum = 0;
  for (const Block& block : blocks_) sum += block.size;
  return sum;
}

void* Workspace::alloc_bytes(std::size_t count, std::size_t element_bytes) {
  if (count > memory_limit() / element_bytes) throw_too_large(count, element_bytes);
  // At least one line, so that two allocations never have the same address.
  const std::size_t bytes = std::max((count * element_bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  const bool fits = block_ < blocks_.size() && bytes <= blocks_[block_].size - used_;
  if (!fits && !advance_to_block(bytes)) throw_too_large(count, element_bytes);
  std::byte* const p = blocks_[block_].data.get() + used_;
  used_ += bytes;
  return p;
}

// Makes the next block one with room for `bytes`; false if there is not that much memory. Blocks behind the current
// position hold nothing: one that fits is moved up; if none fits they are all given back, so the stack never keeps more
// than a pass needed.
bool Workspace::advance_to_block(std::size_t bytes) {
  const std::size_t next = used_ == 0 ? block_ : block_ + 1;  // == blocks_.size() if there is none yet
  for (std::size_t i = next; i < blocks_.size(); ++i) {
    if (blocks_[i].size < bytes) continue;
    std::swap(blocks_[next], blocks_[i]);
    block_ = next;
    used_ = 0;
    return true;
  }
  const std::size_t size = std::max(bytes, kMinBlock);
  blocks_.reserve(next + 1);
  blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(next), blocks_.end());
  auto* const data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, size));
  if (data == nullptr) return false;
  blocks_.push_back({std::unique_ptr<std::byte, FreeDeleter>(data), size});
  block_ = next;
  used_ = 0;
  return true;
}

}  // namespace fairway::backend
