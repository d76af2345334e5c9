// Makes a device the current one of this thread for the length of a block. For files under cuda/ folders only.
#pragma once

namespace fairway::backend {

class DeviceScope {
 public:
  // Throws as require_cuda_device() does.
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int device_, previous_ = 0;
};

}  // namespace fairway::backend
