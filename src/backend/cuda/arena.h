// The memory of one model on a CUDA device: allocated once, handed out in order, given back at once.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>

namespace fairway::backend {

// One cudaMalloc, so a model that does not fit is refused before anything of it is loaded. Not thread-safe. Pointers
// are device memory, uninitialised, valid for the life of the arena; all work that uses them must have ended before it
// ends.
class DeviceArena {
 public:
  static constexpr std::size_t kAlignment = 256;  // what cudaMalloc gives; covers every vector load and TMA's 128

  // What an allocation of `bytes` takes: the next multiple of kAlignment, and never nothing, so that two allocations
  // have different addresses. Add these up to know the size of an arena. Error(kResource) if it is not a number.
  static std::size_t rounded(std::size_t bytes);

  // Error(kResource) with the size wanted, free and total memory if the device has not that much; throws as
  // require_cuda_device() does.
  DeviceArena(int device, std::size_t bytes);
  ~DeviceArena();
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  // `what` names the allocation in the Error(kResource) that says how much was wanted and how much is left. A failed
  // call takes nothing.
  template <class T>
  T* alloc(std::size_t count, std::string_view what) {
    static_assert(std::is_trivially_copyable_v<T>, "device memory is filled by copies");
    return static_cast<T*>(alloc_bytes(count, sizeof(T), what));
  }

  int device() const { return device_; }
  std::size_t capacity_bytes() const { return capacity_; }
  std::size_t used_bytes() const { return used_; }

 private:
  void* alloc_bytes(std::size_t count, std::size_t element_bytes, std::string_view what);

  int device_;
  std::byte* data_ = nullptr;
  std::size_t capacity_, used_ = 0;
};

}  // namespace fairway::backend
