// cudaProfilerStart and cudaProfilerStop.
#include "backend/cuda/profiler.h"

#include <cuda_profiler_api.h>

#include "backend/cuda/check.cuh"

namespace fairway::backend {

ProfiledRange::ProfiledRange() {
  check_cuda(cudaProfilerStart(), "cudaProfilerStart");
}

ProfiledRange::~ProfiledRange() {
  (void)cudaProfilerStop();
}

}  // namespace fairway::backend
