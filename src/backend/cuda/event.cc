// Events with timing: one kind serves for order and for time, and recording costs the same.
#include "backend/cuda/event.h"

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/native.cuh"
#include "backend/cuda/stream.h"
#include "fairway/error.h"

namespace fairway::backend {

CudaEvent::CudaEvent(int device) {
  const DeviceScope scope(device);
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  handle_ = event;
}

CudaEvent::~CudaEvent() {
  (void)cudaEventDestroy(native(*this));
}

void CudaEvent::record(const CudaStream& stream) {
  check_cuda(cudaEventRecord(native(*this), native(stream)), "cudaEventRecord");
}

bool CudaEvent::passed() const {
  const cudaError_t status = cudaEventQuery(native(*this));
  if (status != cudaErrorNotReady) check_cuda(status, "cudaEventQuery");
  return status == cudaSuccess;
}

void CudaEvent::wait() const {
  check_cuda(cudaEventSynchronize(native(*this)), "cudaEventSynchronize");
}

void EventTimer::start(const CudaStream& stream) {
  begin_.record(stream);
  state_ = State::kStarted;
}

void EventTimer::stop(const CudaStream& stream) {
  if (state_ == State::kEmpty) throw Error(ErrorKind::kUsage, "EventTimer: stop() without start()");
  end_.record(stream);
  state_ = State::kStopped;
}

bool EventTimer::ready() const {
  return state_ == State::kStopped && end_.passed();
}

double EventTimer::microseconds() const {
  if (state_ != State::kStopped) throw Error(ErrorKind::kUsage, "EventTimer: read before start() and stop()");
  end_.wait();
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, native(begin_), native(end_)), "cudaEventElapsedTime");
  return 1e3 * static_cast<double>(milliseconds);
}

}  // namespace fairway::backend
