// Where weights go in device memory. Run over a model twice: the first time it adds up, the second time it copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/stream.h"
#include "backend/cuda/upload_pool.h"
#include "backend/cuda/uploader.h"

namespace fairway::model {

class WeightStore {
 public:
  // Adds up only: every pointer it gives is null.
  WeightStore() = default;
  // Copies into the arena. progress(bytes so far) now and then if given; it may throw.
  WeightStore(backend::DeviceArena& arena, std::function<void(std::int64_t)> progress);

  // A copy of host bytes, at least 16-byte aligned.
  void* copy(std::span<const std::uint8_t> bytes, std::string_view what);
  // The same for bytes that stay until finish() has returned, such as those of a mapped file: other threads read them.
  void* copy_later(std::span<const std::uint8_t> bytes, std::string_view what);
  template <class T>
  const T* copy_of(std::span<const T> values, std::string_view what) {
    return static_cast<const T*>(
        copy({reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()}, what));
  }
  // Halves of floats that are exact halves, the first `live` of them; the others become 0. Vectors at one address,
  // where a checkpoint has equal ones, share a copy.
  const std::uint16_t* halves(std::span<const float> values, std::size_t live, std::string_view what);

  // Random 32-bit words, or uniform numbers of a standard deviation in half precision or bfloat.
  void* random_words(std::size_t bytes, std::string_view what);
  void* random_values(std::size_t count, bool bfloat, float deviation, std::string_view what);

  bool measuring() const { return arena_ == nullptr; }
  std::int64_t bytes() const { return bytes_; }
  void finish();  // waits for all copies

 private:
  void* place(std::size_t bytes, std::string_view what);
  // Places so many bytes and, unless it only adds up, lets `fill` queue on stream_ what writes them.
  void* fill(std::size_t bytes, std::string_view what, const std::function<void(void* to)>& fill);
  void report();

  backend::DeviceArena* arena_ = nullptr;
  std::optional<backend::Uploader> uploader_;
  std::optional<backend::UploadPool> pool_;
  std::optional<backend::CudaStream> stream_;  // random values
  std::function<void(std::int64_t)> progress_;
  std::int64_t bytes_ = 0, later_bytes_ = 0;  // given places; of copy_later()
  std::uint64_t seed_ = 0;
  std::map<std::tuple<const float*, std::size_t, std::size_t>, const std::uint16_t*> halves_;
};

}  // namespace fairway::model
