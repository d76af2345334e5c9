// Recording all layers as a graph.
#include "cuda/record.cuh"

#include <cuda_runtime_api.h>

#include "backend/cuda/check.cuh"

namespace fairway::kernels::cuda::bench {

using backend::check_cuda;

cudaGraphExec_t record(const Layers& layers, int tokens, MoePath path, cudaStream_t stream, const MoeProbe& probe) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  try {
    layers.enqueue(tokens, path, stream, probe);
  } catch (...) {
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "instantiate");
  return exec;
}

}  // namespace fairway::kernels::cuda::bench
