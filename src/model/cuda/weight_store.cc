// Sizes first, then copies, by the same calls.
#include "model/cuda/weight_store.h"

#include <utility>

#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/native.cuh"
#include "codec/half.h"
#include "kernels/common/cuda/random_fill.cuh"

namespace fairway::model {

WeightStore::WeightStore(backend::DeviceArena& arena, std::function<void(std::int64_t)> progress)
    : arena_(&arena), progress_(std::move(progress)) {
  uploader_.emplace(arena.device());
  pool_.emplace(arena.device(), backend::upload_threads());
  stream_.emplace(arena.device());
}

void* WeightStore::place(std::size_t bytes, std::string_view what) {
  bytes_ += static_cast<std::int64_t>(backend::DeviceArena::rounded(bytes));
  return measuring() ? nullptr : arena_->alloc<std::uint8_t>(bytes, what);
}

// Bytes that other threads are to copy count when they have been.
void WeightStore::report() {
  if (progress_) progress_(bytes_ - later_bytes_ + static_cast<std::int64_t>(pool_->uploaded_bytes()));
}

void* WeightStore::copy(std::span<const std::uint8_t> bytes, std::string_view what) {
  void* const to = place(bytes.size(), what);
  if (measuring()) return to;
  uploader_->upload(to, bytes);
  report();
  return to;
}

void* WeightStore::copy_later(std::span<const std::uint8_t> bytes, std::string_view what) {
  void* const to = place(bytes.size(), what);
  if (measuring()) return to;
  later_bytes_ += static_cast<std::int64_t>(bytes.size());
  pool_->add(to, bytes);
  report();
  return to;
}

const std::uint16_t* WeightStore::halves(std::span<const float> values, std::size_t live, std::string_view what) {
  const auto [found, added] = halves_.try_emplace({values.data(), values.size(), live}, nullptr);
  if (!added) return found->second;
  std::vector<std::uint16_t> bits(values.size());
  if (!measuring()) {
    for (std::size_t i = 0; i < live; ++i) bits[i] = codec::half_from_float(values[i]);
  }
  return found->second = copy_of<std::uint16_t>(bits, what);
}

void* WeightStore::fill(std::size_t bytes, std::string_view what, const std::function<void(void* to)>& fill) {
  void* const to = place(bytes, what);
  if (measuring()) return to;
  const backend::DeviceScope scope(arena_->device());
  fill(to);
  report();
  return to;
}

void* WeightStore::random_words(std::size_t bytes, std::string_view what) {
  return fill(bytes, what, [&](void* to) {
    kernels::cuda::random_words(static_cast<std::uint32_t*>(to), bytes / sizeof(std::uint32_t), ++seed_,
                                backend::native(*stream_));
  });
}

void* WeightStore::random_values(std::size_t count, bool bfloat, float deviation, std::string_view what) {
  return fill(2 * count, what, [&](void* to) {
    kernels::cuda::random_values(static_cast<std::uint16_t*>(to), count, bfloat, deviation, ++seed_,
                                 backend::native(*stream_));
  });
}

void WeightStore::finish() {
  if (pool_) pool_->finish([this] { report(); });
  if (uploader_) uploader_->finish();
  if (stream_) stream_->wait();
}

}  // namespace fairway::model
