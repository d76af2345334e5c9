// Times the CUDA expert layer alone, in turn over enough layers that weights come from memory and not from the L2
// cache.
//
//   cuda_moe_bench RESULT.json REVISION [--brief | --few]
//     --brief: one geometry; --few: up to 32 tokens, and beside the file the stage times of the stream paths
//   cuda_moe_bench --profile TOKENS PATH     plain launches at GLM-4.7-Flash geometry, for a profiler
//   cuda_moe_bench --time TOKENS,... PATH    a figure for each number of tokens, the same geometry
//   cuda_moe_bench --stages TOKENS PATH      stage times of a stream path, the same geometry
//
// One graph of all layers, its replays timed with events. Figures are microseconds per layer, medians; the file has
// every sample.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cuda/check.cuh"
#include "cuda/layers.cuh"
#include "cuda/record.cuh"
#include "cuda/result.cuh"
#include "cuda/stages.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"

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

Record measure(const Case& c, const Layers& layers, int tokens, MoePath path, cudaStream_t stream,
               const MoeProbe& probe = {}) {
  layers.enqueue(tokens, path, stream, probe);
  check_cuda(cudaStreamSynchronize(stream), moe_path_name(path));
  cudaGraphExec_t exec = record(layers, tokens, path, stream, probe);
  Record result{&c, tokens, path, path == moe_default_path(layers.layer(0), tokens), layers.token_bytes(), {}};
  result.samples = time_samples(kSamples, stream, [&] { check_cuda(cudaGraphLaunch(exec, stream), "graph"); });
  for (float& ms : result.samples) ms *= 1000.0f / kLayers;
  cudaGraphExecDestroy(exec);
  return result;
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

// The ways to launch a stream path, and where the time goes. Not in the file: they are no paths.
void print_stream_details(const Case& c, const Layers& layers, int tokens, cudaStream_t stream) {
  for (const MoePath path : {MoePath::kIntStream, MoePath::kIntStream3}) {
    for (const bool together : {true, false}) {
      for (const bool chained : {true, false}) {
        std::printf("  %s, %s%s: ", moe_path_name(path), together ? "cooperative" : "plain",
                    chained ? ", chained" : "");
        try {
          std::printf("%.1f us\n", measure(c, layers, tokens, path, stream, {nullptr, together, chained}).median());
          print_stages(layers, tokens, path, stream, {nullptr, together, chained});
        } catch (const Error& e) {
          std::printf("failed: %s\n", e.what());
        }
      }
    }
  }
}

int run(const std::vector<std::string>& command, Selection selection) {
  cudaStream_t stream;
  check_cuda(cudaStreamCreate(&stream), "stream");
  const double copy = copy_bandwidth(stream);
  std::printf("copy %.0f GB/s read and written\n", copy * 1e-9);
  const std::vector<Case> list = cases(selection);
  std::vector<Record> records;
  int failures = 0;
  for (const Case& c : list) {
    const Layers layers(c);
    check_cuda(cudaDeviceSynchronize(), "weights");
    for (const int tokens : c.tokens) {
      std::printf("%s %s %s suh, %4d tokens:", c.model.c_str(), c.widths.c_str(), c.common_suh ? "common" : "separate",
                  tokens);
      for (int p = 0; p < kMoePaths; ++p) {
        const auto kernel_path = static_cast<MoePath>(p);
        const bool is_default = kernel_path == moe_default_path(layers.layer(0), tokens);
        if (!moe_path_legal(layers.layer(0), kernel_path)) continue;
        if (!is_default && !(c.all_paths && worth_timing(c, tokens, kernel_path))) continue;
        try {
          records.push_back(measure(c, layers, tokens, kernel_path, stream));
          std::printf("  %s%s %.1f", is_default ? "*" : "", moe_path_name(kernel_path), records.back().median());
        } catch (const Error& e) {  // the other paths are worth measuring all the same
          ++failures;
          std::printf("  %s failed: %s;", moe_path_name(kernel_path), e.what());
        }
      }
      std::printf("\n");
      if (selection == Selection::kFew && (tokens == 1 || tokens == 8)) {
        print_stream_details(c, layers, tokens, stream);
      }
      std::fflush(stdout);
    }
  }
  write_result(command, copy, records);
  return failures == 0 ? 0 : 1;
}

int one_path(std::string_view what, const std::string& token_list, std::string_view name) {
  const int tokens = std::atoi(token_list.c_str());
  const bool stages = what == "--stages";
  const std::vector<Case> list = cases(Selection::kBrief);
  const Layers layers(list[0]);
  for (int p = 0; p < kMoePaths; ++p) {
    const auto path = static_cast<MoePath>(p);
    if (name != moe_path_name(path)) continue;
    if (stages && (path == MoePath::kIntStream || path == MoePath::kIntStream3)) {
      cudaStream_t stream;
      check_cuda(cudaStreamCreate(&stream), "stream");
      print_stages(layers, tokens, path, stream);
      return 0;
    }
    if (stages) break;
    if (what == "--time") {
      cudaStream_t stream;
      check_cuda(cudaStreamCreate(&stream), "stream");
      std::istringstream list_stream(token_list);
      for (std::string one; std::getline(list_stream, one, ',');) {
        const int count = std::atoi(one.c_str());
        std::printf("%s, %d tokens: %.1f us\n", moe_path_name(path), count,
                    measure(list[0], layers, count, path, stream).median());
      }
      return 0;
    }
    layers.enqueue(tokens, static_cast<MoePath>(p), nullptr);
    check_cuda(cudaDeviceSynchronize(), moe_path_name(static_cast<MoePath>(p)));
    return 0;
  }
  std::printf("cuda_moe_bench: no path of that name, or one without stages; the names are");
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
    const string_view what = argc == 4 ? argv[1] : "";
    if (what == "--profile" || what == "--time" || what == "--stages") {
      return bench::one_path(what, argv[2], argv[3]);
    }
    const string_view option = argc == 4 ? argv[3] : "";
    if (argc < 3 || argc > 4 || (argc == 4 && option != "--brief" && option != "--few")) {
      std::printf(
          "usage: cuda_moe_bench RESULT.json REVISION [--brief | --few] | --profile TOKENS PATH | --time TOKENS,... "
          "PATH | --stages TOKENS PATH\n");
      return 2;
    }
    fairway::kernels::cuda::require_gpu(0);
    return bench::run({argv, argv + argc}, option == "--brief" ? bench::Selection::kBrief
                                           : option == "--few" ? bench::Selection::kFew
                                                               : bench::Selection::kAll);
  } catch (const fairway::Error& e) {
    std::fprintf(stderr, "cuda_moe_bench: %s\n", e.what());
    return 1;
  }
}
