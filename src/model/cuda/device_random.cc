// A ring of places on the device and beside it on the host; one stream fills and copies them in turn.
#include "model/device_random.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <vector>

#include "backend/cuda/arena.h"
#include "backend/cuda/device.h"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/event.h"
#include "backend/cuda/native.cuh"
#include "backend/cuda/pinned_buffer.h"
#include "backend/cuda/stream.h"
#include "fairway/error.h"
#include "kernels/common/cuda/random_fill.cuh"

namespace fairway::model {

struct DeviceRandom::State {
  struct Place {
    Place(int device, void* memory) : made(memory), host(device, kPartBytes), copied(device) {}
    void* made;
    backend::PinnedBuffer host;
    backend::CudaEvent copied;
    std::size_t bytes = 0;
  };
  static constexpr std::size_t kPlaces = kAhead + 1;  // one is in the taker's hands

  explicit State(int device_index)
      : device(device_index), stream(device_index), arena(device_index, kPlaces * kPartBytes) {
    for (std::size_t i = 0; i < kPlaces; ++i) {
      places.push_back(std::make_unique<Place>(device, arena.alloc<std::uint8_t>(kPartBytes, "random numbers")));
    }
  }

  int device;
  backend::CudaStream stream;
  backend::DeviceArena arena;
  std::vector<std::unique_ptr<Place>> places;
  std::size_t asked = 0, taken = 0;  // parts
};

DeviceRandom::DeviceRandom(int device) {
  backend::require_cuda_device(device);
  state_ = std::make_unique<State>(device);
}

DeviceRandom::~DeviceRandom() {
  (void)cudaStreamSynchronize(backend::native(state_->stream));  // before the places go
}

bool DeviceRandom::full() const {
  return state_->asked - state_->taken == kAhead;
}

void DeviceRandom::ask(const RandomPart& part) {
  State& s = *state_;
  if (full() || part.bytes() > kPartBytes || part.count == 0) {
    throw Error(ErrorKind::kUsage, fmt::format("random numbers: {} parts are under way of at most {}, and {} bytes are "
                                               "wanted of at most {}",
                                               s.asked - s.taken, kAhead, part.bytes(), kPartBytes));
  }
  const backend::DeviceScope scope(s.device);
  State::Place& place = *s.places[s.asked++ % State::kPlaces];
  const cudaStream_t stream = backend::native(s.stream);
  if (part.kind == RandomPart::Kind::kWords) {
    kernels::cuda::random_words(static_cast<std::uint32_t*>(place.made), part.count, part.seed, stream, part.first);
  } else {
    kernels::cuda::random_values(static_cast<std::uint16_t*>(place.made), part.count,
                                 part.kind == RandomPart::Kind::kBfloats, part.deviation, part.seed, stream,
                                 part.first);
  }
  place.bytes = part.bytes();
  s.stream.copy_to_host(place.host.data(), place.made, place.bytes);
  place.copied.record(s.stream);
}

std::span<const std::uint8_t> DeviceRandom::take() {
  State& s = *state_;
  if (s.asked == s.taken) throw Error(ErrorKind::kUsage, "random numbers: none were asked for");
  const State::Place& place = *s.places[s.taken++ % State::kPlaces];
  place.copied.wait();
  return {place.host.data(), place.bytes};
}

}  // namespace fairway::model
