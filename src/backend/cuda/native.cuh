// The toolkit's types behind the opaque handles. For files under cuda/ folders only.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/event.h"
#include "backend/cuda/stream.h"

namespace fairway::backend {

inline cudaStream_t native(const CudaStream& stream) {
  return static_cast<cudaStream_t>(stream.handle());
}
inline cudaEvent_t native(const CudaEvent& event) {
  return static_cast<cudaEvent_t>(event.handle());
}

}  // namespace fairway::backend
