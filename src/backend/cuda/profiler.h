// What a profiler should look at, if it was told to wait for that (ncu --profile-from-start off). Compiles without a
// CUDA toolkit.
#pragma once

namespace fairway::backend {

// Kernels that are launched while it lives are profiled, on all devices of this process. Nothing happens without a
// profiler. What was launched before or is in it must be waited for by whoever makes and ends it.
class ProfiledRange {
 public:
  ProfiledRange();
  ~ProfiledRange();
  ProfiledRange(const ProfiledRange&) = delete;
  ProfiledRange& operator=(const ProfiledRange&) = delete;
};

}  // namespace fairway::backend
