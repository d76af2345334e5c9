// Stream capture with an end on every path.
#include "backend/cuda/graph.h"

#include <memory>
#include <type_traits>

#include "backend/cuda/check.cuh"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/native.cuh"

namespace fairway::backend {
namespace {

struct GraphDeleter {
  void operator()(cudaGraph_t graph) const { (void)cudaGraphDestroy(graph); }
};
using GraphOwner = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, GraphDeleter>;

class Capture {
 public:
  // Thread-local: other threads may go on allocating, this one would get an error.
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }
  ~Capture() {
    if (!open_) return;
    // record() threw: whatever CUDA says about the half of a graph, its exception is the one that counts.
    const GraphOwner dropped = take(nullptr);
    (void)cudaGetLastError();
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  GraphOwner end() {
    cudaError_t status = cudaSuccess;
    GraphOwner graph = take(&status);
    check_cuda(status, "cudaStreamEndCapture");
    return graph;
  }

 private:
  GraphOwner take(cudaError_t* status) {
    open_ = false;
    cudaGraph_t graph = nullptr;
    const cudaError_t result = cudaStreamEndCapture(stream_, &graph);
    if (status != nullptr) *status = result;
    return GraphOwner(graph);
  }

  cudaStream_t stream_;
  bool open_ = true;
};

}  // namespace

CudaGraph::CudaGraph(CudaStream& stream, const std::function<void()>& record) {
  const DeviceScope scope(stream.device());
  Capture capture(native(stream));
  record();
  const GraphOwner graph = capture.end();
  check_cuda(cudaGraphGetNodes(graph.get(), nullptr, &nodes_), "cudaGraphGetNodes");
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph.get(), 0), "cudaGraphInstantiate");
  executable_ = executable;
}

CudaGraph::~CudaGraph() {
  (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
}

void CudaGraph::replay(CudaStream& stream) const {
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), native(stream)), "cudaGraphLaunch");
}

}  // namespace fairway::backend
