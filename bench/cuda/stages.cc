// Stage times of the stream paths from the stamps of their CTAs.
#include "cuda/stages.cuh"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "backend/cuda/check.cuh"
#include "cuda/record.cuh"

namespace fairway::kernels::cuda::bench {
namespace {

using backend::check_cuda;

constexpr std::size_t kLayerStamps = std::size_t{kMoeMostCtas} * kMoeStamps;

struct Stage {
  const char* name;
  MoeStamp from, to;
};
constexpr Stage kStages[] = {{"table", kStampStart, kStampTable},
                             {"input", kStampStart, kStampInput},
                             {"gate_up", kStampInput, kStampGateUp},
                             {"wait", kStampGateUp, kStampWaited},
                             {"down input", kStampWaited, kStampDownInput},
                             {"down", kStampDownInput, kStampDown},
                             {"sums", kStampDown, kStampSums},
                             {"all", kStampStart, kStampSums}};

std::string median_and_largest(std::vector<double> values) {
  if (values.empty()) return "-";
  std::sort(values.begin(), values.end());
  char text[64];
  std::snprintf(text, sizeof text, "%.2f (%.2f)", values[values.size() / 2], values.back());
  return text;
}

// The CTAs of one layer that had work, as seen from the device's clock; nanoseconds.
struct Window {
  long long entered = std::numeric_limits<long long>::max(), released = entered, left = 0;
  int ctas = 0;
};

Window window_of(const long long* layer) {
  Window w;
  for (int cta = 0; cta < kMoeMostCtas; ++cta) {
    const long long* own = layer + static_cast<std::ptrdiff_t>(cta) * kMoeStamps;
    w.left = std::max(w.left, own[kStampLeft]);  // of CTAs that only add up, too
    if (own[kStampSums] == 0) continue;
    ++w.ctas;
    w.entered = std::min(w.entered, own[kStampEntered]);
    w.released = std::min(w.released, own[kStampReleased]);
  }
  return w;
}

void print_times(const std::vector<long long>& stamps, double cycles_per_us) {
  for (const Stage& stage : kStages) {
    std::vector<double> times;
    for (std::size_t at = 0; at < stamps.size(); at += kMoeStamps) {
      if (stamps[at + kStampSums] == 0 || stamps[at + stage.from] == 0 || stamps[at + stage.to] == 0) continue;
      long long from = stamps[at + stage.from];
      if (stage.to == kStampGateUp) from = std::max(from, stamps[at + kStampTable]);  // whatever was there last
      times.push_back(static_cast<double>(stamps[at + stage.to] - from) / cycles_per_us);
    }
    std::printf("  %s %s", stage.name, median_and_largest(times).c_str());
  }
  std::vector<double> launches, between, early;
  Window before = window_of(stamps.data());
  const int ctas = before.ctas;
  for (std::size_t layer = 1; layer < kLayers; ++layer) {
    const Window w = window_of(stamps.data() + layer * kLayerStamps);
    launches.push_back(static_cast<double>(w.left - w.released) * 1e-3);
    between.push_back(static_cast<double>(w.released - before.left) * 1e-3);
    early.push_back(static_cast<double>(w.released - w.entered) * 1e-3);
    before = w;
  }
  std::printf("\n    launch %s, from the last one's end %s, resident before that %s; %d CTAs\n",
              median_and_largest(launches).c_str(), median_and_largest(between).c_str(),
              median_and_largest(early).c_str(), ctas);
}

}  // namespace

void print_stages(const Layers& layers, int tokens, MoePath path, cudaStream_t stream, MoeProbe probe) {
  std::vector<long long> stamps(kLayers * kLayerStamps);
  const std::size_t bytes = stamps.size() * sizeof(long long);
  int kilohertz = 0;  // the highest clock: shorter times than real ones where the GPU runs slower
  check_cuda(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, 0), "cudaDeviceGetAttribute");
  void* on_device = nullptr;
  check_cuda(cudaMalloc(&on_device, bytes), "cudaMalloc");
  probe.stamps = static_cast<long long*>(on_device);
  cudaGraphExec_t exec = record(layers, tokens, path, stream, probe);
  for (int i = 0; i < 3; ++i) {  // the last one counts
    check_cuda(cudaMemsetAsync(on_device, 0, bytes, stream), "cudaMemsetAsync");
    check_cuda(cudaGraphLaunch(exec, stream), "graph");
  }
  check_cuda(cudaMemcpyAsync(stamps.data(), on_device, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(stream), "stages");
  cudaGraphExecDestroy(exec);
  cudaFree(on_device);
  std::printf("    %s, %d tokens, %s%s, us at %d MHz, median (largest):\n   ", moe_path_name(path), tokens,
              probe.together ? "cooperative" : "plain", probe.chained ? ", chained" : "", kilohertz / 1000);
  print_times(stamps, kilohertz * 1e-3);
  std::fflush(stdout);
}

}  // namespace fairway::kernels::cuda::bench
