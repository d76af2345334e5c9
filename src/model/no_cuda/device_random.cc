// DeviceRandom without a CUDA toolkit: no constructor returns.
#include "model/device_random.h"

#include "backend/cuda/device.h"

namespace fairway::model {

struct DeviceRandom::State {};

DeviceRandom::DeviceRandom(int device) {
  backend::require_cuda_device(device);
}
DeviceRandom::~DeviceRandom() = default;
bool DeviceRandom::full() const {
  return false;
}
void DeviceRandom::ask(const RandomPart&) {}
std::span<const std::uint8_t> DeviceRandom::take() {
  return {};
}

}  // namespace fairway::model
