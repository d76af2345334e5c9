// Times the CUDA expert layer alone, in turn over enough layers that weights come from memory and not from the L2
// cache.
//
//   moe_layer RESULT.json REVISION [--brief]     --brief: one geometry
//   moe_layer --profile TOKENS PATH              a few plain launches at GLM-4.7-Flash geometry, for a profiler
//   moe_layer --stages TOKENS PATH               clock cycles of the stages of a stream path, the same geometry
//
// Random words as weights, made on the device; uniform random routing, different in every layer; one graph of all
// layers, its replays timed with events. Figures are microseconds per layer, medians; the file has every sample.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "moe_layers.cuh"

namespace fairway::kernels::cuda::bench {
namespace {

constexpr int kSamples = 11;

struct Record {
  const Case* of;
  int tokens;
  MoePath path;
  bool is_default;
  double bytes;  // of weights one token reads
  std::vector<float> samples;
  float median() const { return samples[samples.size() / 2]; }
};

// Milliseconds of each of `samples` repetitions, sorted.
std::vector<float> time_samples(int samples, cudaStream_t stream, const std::function<void()>& work) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "event");
  require(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = -2; i < samples; ++i) {  // two to warm up
    require(cudaEventRecord(begin, stream), "event");
    work();
    require(cudaEventRecord(end, stream), "event");
    require(cudaEventSynchronize(end), "run");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin, end), "event");
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
  require(cudaStreamSynchronize(stream), moe_path_name(path));
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  layers.enqueue(tokens, path, stream);
  require(cudaStreamEndCapture(stream, &graph), "capture");
  require(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  Record record{&c, tokens, path, path == moe_default_path(layers.layer(0), tokens), layers.token_bytes(), {}};
  record.samples = time_samples(kSamples, stream, [&] { require(cudaGraphLaunch(exec, stream), "graph"); });
  for (float& ms : record.samples) ms *= 1000.0f / kLayers;
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return record;
}

// Paths that decode an expert once for far fewer tokens than it has are not worth the time to measure.
bool worth_timing(const Case& c, int tokens, MoePath path) {
  const double per_expert = static_cast<double>(tokens) * c.top_k / c.routed;
  switch (path) {
    case MoePath::kIntStream:
    case MoePath::kIntStream3:
      return per_expert <= 8;
    case MoePath::kInt4:
      return per_expert <= 4;
    case MoePath::kInt8:
      return per_expert <= 16;
    case MoePath::kHalf8:
      return per_expert <= 16;
    case MoePath::kHalf16:
      return per_expert <= 32;
    case MoePath::kHalf32:
      return per_expert >= 1;
    case MoePath::kHalf64:
      return per_expert >= 4;
  }
  return true;
}

double copy_bandwidth(cudaStream_t stream) {  // bytes read and written per second
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  void *from, *to;
  require(cudaMalloc(&from, kBytes), "cudaMalloc");
  require(cudaMalloc(&to, kBytes), "cudaMalloc");
  require(cudaMemset(from, 1, kBytes), "memset");
  const std::vector<float> ms = time_samples(
      9, stream, [&] { require(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, stream), "copy"); });
  cudaFree(from);
  cudaFree(to);
  return 2.0 * static_cast<double>(kBytes) / (ms[ms.size() / 2] * 1e-3);
}

std::vector<Case> cases(bool brief) {
  const std::vector<int> all{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}, some{1, 8, 32};
  const auto glm = [&](const char* widths, std::vector<Tuple> tuples, bool common, const std::vector<int>& tokens,
                       bool paths) {
    return Case{"glm-4.7-flash", 2048, 1536, 64, 1, 4, widths, std::move(tuples), common, tokens, paths};
  };
  const auto qwen = [&](bool common, const std::vector<int>& tokens, bool paths) {
    return Case{"qwen3-30b-a3b", 2048, 768, 128, 0, 8, "4,4,4", {{4, 4, 4}}, common, tokens, paths};
  };
  std::vector<Case> list{glm("3,3,3", {{3, 3, 3}}, true, all, true)};
  if (brief) return list;
  list.push_back(glm("3,3,3", {{3, 3, 3}}, false, {1, 8, 32, 256, 1024}, false));
  list.push_back(glm("6,2,3", {{6, 2, 3}}, true, some, false));
  list.push_back(glm("6,3,4", {{6, 3, 4}}, true, some, false));
  list.push_back(glm("mean 3", {{3, 3, 3}, {2, 2, 2}, {4, 4, 4}, {4, 2, 3}, {2, 3, 4}}, true, some, false));
  list.push_back(glm("4,4,4", {{4, 4, 4}}, true, some, false));
  list.push_back(glm("2,2,2", {{2, 2, 2}}, true, some, false));
  list.push_back(qwen(true, all, true));
  list.push_back(qwen(false, {1, 8, 32, 1024}, false));
  return list;
}

void write_json(const char* path, const char* revision, double copy, const std::vector<Record>& records) {
  cudaDeviceProp device;
  int driver = 0, runtime = 0, number = 0;
  require(cudaGetDevice(&number), "device");
  require(cudaGetDeviceProperties(&device, number), "device");
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  std::FILE* f = std::fopen(path, "w");
  if (f == nullptr) {
    std::printf("moe_layer: cannot write %s\n", path);
    std::exit(1);
  }
  std::fprintf(
      f, "{\n  \"device\": \"%s\", \"multiprocessors\": %d, \"driver\": %d, \"cuda\": %d,\n  \"revision\": \"%s\",\n",
      device.name, device.multiProcessorCount, driver, runtime, revision);
  std::fprintf(
      f, "  \"copy_bytes_per_second\": %.4g, \"layers\": %d, \"unit\": \"microseconds per layer\",\n  \"records\": [",
      copy, kLayers);
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Record& r = records[i];
    std::fprintf(f,
                 "%s\n    {\"model\": \"%s\", \"bits\": \"%s\", \"common_suh\": %s, \"tokens\": %d, \"path\": \"%s\", "
                 "\"default\": %s, ",
                 i == 0 ? "" : ",", r.of->model.c_str(), r.of->widths.c_str(), r.of->common_suh ? "true" : "false",
                 r.tokens, moe_path_name(r.path), r.is_default ? "true" : "false");
    std::fprintf(f, "\"token_weight_bytes\": %.0f, \"median\": %.3f, \"samples\": [", r.bytes, r.median());
    for (std::size_t s = 0; s < r.samples.size(); ++s) std::fprintf(f, "%s%.3f", s == 0 ? "" : ", ", r.samples[s]);
    std::fprintf(f, "]}");
  }
  std::fprintf(f, "\n  ]\n}\n");
  std::fclose(f);
}

int run(const char* path, const char* revision, bool brief) {
  cudaStream_t stream;
  require(cudaStreamCreate(&stream), "stream");
  const double copy = copy_bandwidth(stream);
  std::printf("copy %.0f GB/s read and written\n", copy * 1e-9);
  const std::vector<Case> list = cases(brief);
  std::vector<Record> records;
  for (const Case& c : list) {
    const Layers layers(c);
    require(cudaDeviceSynchronize(), "weights");
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
  write_json(path, revision, copy, records);
  return 0;
}

// Cycles from a CTA's first instruction after the previous kernel's end to the end of each stage: median and largest
// over the CTAs of the last layer.
int stages(int tokens, std::string_view name) {
  constexpr const char* kNames[kMoeStamps - 1] = {"table",      "gate_up input", "gate_up", "barrier",
                                                  "down input", "down",          "barrier", "sums"};
  const std::vector<Case> list = cases(true);
  const Layers layers(list[0]);
  cudaDeviceProp device;
  require(cudaGetDeviceProperties(&device, 0), "device");
  const int path = name == moe_path_name(MoePath::kIntStream) ? 0 : 1;
  const std::size_t ctas = static_cast<std::size_t>(device.multiProcessorCount * (path == 0 ? 1 : 3));
  std::vector<long long> stamps(ctas * kMoeStamps);
  long long* on_device = nullptr;
  require(cudaMalloc(&on_device, stamps.size() * sizeof(long long)), "cudaMalloc");
  for (int i = 0; i < 3; ++i) {
    require(cudaMemset(on_device, 0, stamps.size() * sizeof(long long)), "memset");
    layers.enqueue(tokens, path == 0 ? MoePath::kIntStream : MoePath::kIntStream3, nullptr, on_device);
    require(cudaMemcpy(stamps.data(), on_device, stamps.size() * sizeof(long long), cudaMemcpyDeviceToHost), "stages");
  }
  std::printf("%s, %d tokens, cycles (median, largest):", moe_path_name(static_cast<MoePath>(path)), tokens);
  for (std::size_t stage = 0; stage + 1 < kMoeStamps; ++stage) {
    std::vector<long long> cycles;
    for (std::size_t cta = 0; cta < ctas; ++cta) {
      const long long *own = &stamps[cta * kMoeStamps], at = own[stage] - own[kMoeStamps - 1];
      if (own[stage] != 0) cycles.push_back(at);
    }
    std::sort(cycles.begin(), cycles.end());
    if (!cycles.empty()) std::printf("  %s %lld %lld", kNames[stage], cycles[cycles.size() / 2], cycles.back());
  }
  std::printf("\n");
  cudaFree(on_device);
  return 0;
}

int profile(int tokens, std::string_view name) {
  const std::vector<Case> list = cases(true);
  const Layers layers(list[0]);
  for (int p = 0; p < kMoePaths; ++p) {
    if (name != moe_path_name(static_cast<MoePath>(p))) continue;
    layers.enqueue(tokens, static_cast<MoePath>(p), nullptr);
    require(cudaDeviceSynchronize(), moe_path_name(static_cast<MoePath>(p)));
    return 0;
  }
  std::printf("moe_layer: no path of that name; the names are");
  for (int p = 0; p < kMoePaths; ++p) std::printf(" %s", moe_path_name(static_cast<MoePath>(p)));
  std::printf("\n");
  return 2;
}

}  // namespace
}  // namespace fairway::kernels::cuda::bench

int main(int argc, char** argv) {
  using std::string_view;
  if (argc == 4 && string_view(argv[1]) == "--profile") {
    return fairway::kernels::cuda::bench::profile(std::atoi(argv[2]), argv[3]);
  }
  if (argc == 4 && string_view(argv[1]) == "--stages") {
    return fairway::kernels::cuda::bench::stages(std::atoi(argv[2]), argv[3]);
  }
  if (argc < 3 || (argc == 4 && string_view(argv[3]) != "--brief") || argc > 4) {
    std::printf("usage: moe_layer RESULT.json REVISION [--brief] | --profile TOKENS PATH | --stages TOKENS PATH\n");
    return 2;
  }
  return fairway::kernels::cuda::bench::run(argv[1], argv[2], argc == 4);
}
