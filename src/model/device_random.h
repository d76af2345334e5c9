// Random tensor content made on a CUDA device and copied to the host while the host does something else with what came
// before. Compiles without a CUDA toolkit; a program built without one has a constructor that says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace fairway::model {

// Consecutive elements of a tensor, from `first` on: words of 32 bits by random_word(), or values of 16 by
// random_value() of kernels/common/random_values.h, rounded to the nearest, ties to even.
struct RandomPart {
  enum class Kind { kWords, kHalves, kBfloats } kind = Kind::kWords;
  float deviation = 1.0f;  // not of words
  std::uint64_t seed = 0, first = 0;
  std::size_t count = 0;  // at least 1
  std::size_t bytes() const { return count * (kind == Kind::kWords ? 4 : 2); }
};

class DeviceRandom {
 public:
  static constexpr std::size_t kPartBytes = std::size_t{8} << 20;  // most of a part
  static constexpr std::size_t kAhead = 4;                         // parts that may be under way

  // Throws as backend::require_cuda_device() does.
  explicit DeviceRandom(int device);
  ~DeviceRandom();
  DeviceRandom(const DeviceRandom&) = delete;
  DeviceRandom& operator=(const DeviceRandom&) = delete;

  bool full() const;  // kAhead parts have not been taken
  // Begins to make a part and returns at once. Error(kUsage) if full or the part is too large or empty.
  void ask(const RandomPart& part);
  // The oldest part that was asked for, which stays where it is until the next call. Error(kUsage) if there is none.
  std::span<const std::uint8_t> take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway::model
