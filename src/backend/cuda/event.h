// A point in a stream's work that others can wait for, and the time between two of them.
#pragma once

namespace fairway::backend {

class CudaStream;

class CudaEvent {
 public:
  // Throws as require_cuda_device() does.
  explicit CudaEvent(int device);
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  // Marks the end of what the stream has been given so far. Recording again moves the mark. Same device as the stream.
  void record(const CudaStream& stream);
  // Both count an event that was never recorded as passed.
  bool passed() const;
  void wait() const;  // blocks this thread

  void* handle() const { return handle_; }  // cudaEvent_t

 private:
  void* handle_ = nullptr;
};

// Device time between two points of a stream, with a resolution of about half a microsecond. Reading it later costs
// the device nothing: start() and stop() do not wait. Not for use while a graph is recorded; time its replay.
class EventTimer {
 public:
  explicit EventTimer(int device) : begin_(device), end_(device) {}

  void start(const CudaStream& stream);
  void stop(const CudaStream& stream);
  const CudaEvent& stopped() const { return end_; }  // stop()'s point
  bool ready() const;                                // both points have passed, microseconds() will not wait
  // Waits for stop()'s point. Error(kUsage) unless start() and then stop() have been called.
  double microseconds() const;

 private:
  enum class State { kEmpty, kStarted, kStopped };
  CudaEvent begin_, end_;
  State state_ = State::kEmpty;
};

}  // namespace fairway::backend
