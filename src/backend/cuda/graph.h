// Work recorded once and replayed with one call: what makes a decode step of many small kernels cheap to launch.
#pragma once

#include <cstddef>
#include <functional>

#include "backend/cuda/stream.h"

namespace fairway::backend {

class CudaGraph {
 public:
  // Runs record() once while everything given to the stream is recorded instead of run. Pointers and launch parameters
  // are fixed by that; what the kernels read from memory is not. record() may not wait for the device, allocate device
  // memory or use other streams than this one and those that wait_for() an event of it. If record() throws, the
  // recording is dropped, the stream is as before, and the exception goes on to the caller.
  CudaGraph(CudaStream& stream, const std::function<void()>& record);
  ~CudaGraph();
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  // Queues the whole graph. A replay waits for an earlier one of the same graph, also on another stream.
  void replay(CudaStream& stream) const;

  std::size_t nodes() const { return nodes_; }  // kernels, copies and fills

 private:
  void* executable_ = nullptr;  // cudaGraphExec_t
  std::size_t nodes_ = 0;
};

}  // namespace fairway::backend
