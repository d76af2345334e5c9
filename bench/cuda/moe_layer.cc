// Times the CUDA expert layer alone, in turn over enough layers that weights come from memory and not from the L2
// cache.
//
//   cuda_moe_bench RESULT.json REVISION [--brief]     --brief: one geometry
//   cuda_moe_bench --profile TOKENS PATH              plain launches at GLM-4.7-Flash geometry, for a profiler
//
// One graph of all layers, its replays timed with events. Figures are microseconds per layer, medians; the file has
// every sample.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cuda/check.cuh"
#include "cuda/layers.cuh"
#include "cuda/result.cuh"
#include "fairway/error.h"
#include "kernels/moe_swiglu/cuda/supported_gpu.h"

namespace fairway::kernels::cuda::bench {
namespace {

using backend::check_cuda;

constexpr int kSamples = 11;

// Milliseconds of each of `samples` repetitions, sorted.
std::vector<float> time_samples(int samples, cudaStream_t stream, const std::function<void()>& work) {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "event");
  check_cuda(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = -2; i < samples; ++i) {  // two to warm up
    check_cuda(cudaEventRecord(begin, stream), "event");
    work();
    check_cuda(cudaEventRecord(end, stream), "event");
    check_cuda(cudaEventSynchronize(end), "run");
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= 0) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times;
}

Record measure(const Case& c, const Layers& layers, int tokens, MoePath path, cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  layers.enqueue(tokens, path, stream);
  check_cuda(cudaStreamSynchronize(stream), moe_path_name(path));
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  layers.enqueue(tokens, path, stream);
  check_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  Record record{&c, tokens, path, path == moe_default_path(layers.layer(0), tokens), layers.token_bytes(), {}};
  record.samples = time_samples(kSamples, stream, [&] { check_cuda(cudaGraphLaunch(exec, stream), "graph"); });
  for (float& ms : record.samples) ms *= 1000.0f / kLayers;
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return record;
}

double copy_bandwidth(cudaStream_t stream) {  // bytes read and written per second
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  void *from, *to;
  check_cuda(cudaMalloc(&from, kBytes), "cudaMalloc");
  check_cuda(cudaMalloc(&to, kBytes), "cudaMalloc");
  check_cuda(cudaMemset(from, 1, kBytes), "memset");
  const std::vector<float> ms = time_samples(
      9, stream, [&] { check_cuda(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, stream), "copy"); });
  cudaFree(from);
  cudaFree(to);
  return 2.0 * static_cast<double>(kBytes) / (ms[ms.size() / 2] * 1e-3);
}

int run(const std::vector<std::string>& command, bool brief) {
  cudaStream_t stream;
  check_cuda(cudaStreamCreate(&stream), "stream");
  const double copy = copy_bandwidth(stream);
  std::printf("copy %.0f GB/s read and written\n", copy * 1e-9);
  const std::vector<Case> list = cases(brief);
  std::vector<Record> records;
  for (const Case& c : list) {
    const Layers layers(c);
    check_cuda(cudaDeviceSynchronize(), "weights");
    for (const int tokens : c.tokens) {
      std::printf("%s %s %s suh, %4d tokens:", c.model.c_str(), c.widths.c_str(), c.common_suh ? "common" : "separate",
                  tokens);
      for (int p = 0; p < kMoePaths; ++p) {
        const auto kernel_path = static_cast<MoePath>(p);
        const bool is_default = kernel_path == moe_default_path(layers.layer(0), tokens);
        if (!is_default && !(c.all_paths && worth_timing(c, tokens, kernel_path))) continue;
        records.push_back(measure(c, layers, tokens, kernel_path, stream));
        std::printf("  %s%s %.1f", is_default ? "*" : "", moe_path_name(kernel_path), records.back().median());
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
  write_result(command, copy, records);
  return 0;
}

int profile(int tokens, std::string_view name) {
  const std::vector<Case> list = cases(true);
  const Layers layers(list[0]);
  for (int p = 0; p < kMoePaths; ++p) {
    if (name != moe_path_name(static_cast<MoePath>(p))) continue;
    layers.enqueue(tokens, static_cast<MoePath>(p), nullptr);
    check_cuda(cudaDeviceSynchronize(), moe_path_name(static_cast<MoePath>(p)));
    return 0;
  }
  std::printf("cuda_moe_bench: no path of that name; the names are");
  for (int p = 0; p < kMoePaths; ++p) std::printf(" %s", moe_path_name(static_cast<MoePath>(p)));
  std::printf("\n");
  return 2;
}

}  // namespace
}  // namespace fairway::kernels::cuda::bench

int main(int argc, char** argv) {
  using std::string_view;
  namespace bench = fairway::kernels::cuda::bench;
  try {
    if (argc == 4 && string_view(argv[1]) == "--profile") return bench::profile(std::atoi(argv[2]), argv[3]);
    if (argc < 3 || (argc == 4 && string_view(argv[3]) != "--brief") || argc > 4) {
      std::printf("usage: cuda_moe_bench RESULT.json REVISION [--brief] | --profile TOKENS PATH\n");
      return 2;
    }
    fairway::kernels::cuda::require_hopper(0);
    return bench::run({argv, argv + argc}, argc == 4);
  } catch (const fairway::Error& e) {
    std::fprintf(stderr, "cuda_moe_bench: %s\n", e.what());
    return 1;
  }
}
