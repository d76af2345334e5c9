// Times the CUDA expert layer alone, in turn over enough layers that weights come from memory and not from the L2
// cache.
//
//   moe_layer RESULT.json REVISION [--brief]     --brief: one geometry
//   moe_layer --profile TOKENS PATH              a few plain launches at GLM-4.7-Flash geometry, for a profiler
//
// Random words as weights, made on the device; uniform random routing, different in every layer; one graph of all
// layers, its replays timed with events. Figures are microseconds per layer, medians; the file has every sample.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.h"

namespace fairway::kernels::cuda::bench {
namespace {

constexpr int kLayers = 12;
constexpr int kSamples = 11;
constexpr int kMaxTokens = 1024;

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::printf("moe_layer: %s: %s\n", what, cudaGetErrorString(status));
  std::exit(1);
}

__device__ std::uint32_t hash(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ x >> 16;
}

__global__ void fill_words(std::uint32_t* words, std::size_t count, std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    words[i] = hash(static_cast<std::uint32_t>(i) * 2654435761u + seed);
  }
}

// Magnitudes scale * (0.5 .. 1.5), random signs.
__global__ void fill_halves(__half* values, std::size_t count, float scale, std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    const std::uint32_t h = hash(static_cast<std::uint32_t>(i) + seed);
    const float v = scale * (0.5f + static_cast<float>(h >> 8) / static_cast<float>(1 << 24));
    values[i] = __float2half(h & 1 ? v : -v);
  }
}

struct Tuple {
  int gate, up, down;
};

struct Case {
  std::string model;
  int hidden, intermediate, routed, shared, top_k;
  std::string widths;         // as printed
  std::vector<Tuple> tuples;  // of the experts, in turn
  bool common_suh;
  std::vector<int> tokens;
  bool all_paths;  // else only the default one
};

struct Record {
  const Case* of;
  int tokens;
  MoePath path;
  bool is_default;
  double bytes;  // of weights one token reads
  std::vector<float> samples;
  float median() const { return samples[samples.size() / 2]; }
};

// The device memory of one case.
class Layers {
 public:
  explicit Layers(const Case& c) : case_(c) {
    for (int i = 0; i < kLayers; ++i) add_layer(static_cast<std::uint32_t>(i));
    x_ = halves(std::size_t{kMaxTokens} * static_cast<std::size_t>(c.hidden), 1.0f, 77);
    y_ = alloc<float>(std::size_t{kMaxTokens} * static_cast<std::size_t>(c.hidden));
    workspace_ = alloc<unsigned char>(moe_workspace_bytes(layers_[0], kMaxTokens));
    require(moe_workspace_clear(workspace_, nullptr), "moe_workspace_clear");
    ids_ = alloc<int>(std::size_t{kLayers} * kMaxTokens * static_cast<std::size_t>(c.top_k));
    weights_ = alloc<float>(std::size_t{kMaxTokens} * static_cast<std::size_t>(c.top_k));
    const std::vector<float> weights(static_cast<std::size_t>(kMaxTokens) * static_cast<std::size_t>(c.top_k), 0.25f);
    require(cudaMemcpy(weights_, weights.data(), weights.size() * 4, cudaMemcpyHostToDevice), "weights");
    route();
  }
  ~Layers() {
    for (void* p : allocations_) cudaFree(p);
  }
  Layers(const Layers&) = delete;
  Layers& operator=(const Layers&) = delete;

  const MoeLayer& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }

  void enqueue(int tokens, MoePath path, cudaStream_t stream) const {
    for (int i = 0; i < kLayers; ++i) {
      const int* ids = ids_ + std::size_t{kMaxTokens} * static_cast<std::size_t>(i * case_.top_k);
      const MoeCall call{x_, case_.hidden, ids, weights_, tokens, y_, case_.hidden};
      require(moe_swiglu(layer(i), call, path, workspace_, stream), moe_path_name(path));
    }
  }

  double token_bytes() const {
    double bits = 0;
    for (const Tuple& t : case_.tuples) bits += t.gate + t.up + t.down;
    bits /= static_cast<double>(case_.tuples.size());
    return bits / 8 * case_.hidden * case_.intermediate * (case_.top_k + case_.shared);
  }

 private:
  template <typename T>
  T* alloc(std::size_t count) {
    void* p = nullptr;
    require(cudaMalloc(&p, count * sizeof(T)), "cudaMalloc");
    allocations_.push_back(p);
    return static_cast<T*>(p);
  }
  __half* halves(std::size_t count, float scale, std::uint32_t seed) {
    __half* p = alloc<__half>(count);
    fill_halves<<<256, 256>>>(p, count, scale, seed);
    return p;
  }
  TrellisRef matrix(unsigned char*& at, int in, int out, int bits, const __half* suh, std::uint32_t seed) {
    const TrellisRef m{at, suh != nullptr ? suh : halves(static_cast<std::size_t>(in), 1.0f, seed),
                       halves(static_cast<std::size_t>(out), 1.0f / std::sqrt(static_cast<float>(in)), seed + 1), bits,
                       2};
    at += static_cast<std::size_t>(in) * static_cast<std::size_t>(out) / 8 * static_cast<std::size_t>(bits);
    return m;
  }
  void add_layer(std::uint32_t index) {
    const Case& c = case_;
    const int experts = c.routed + c.shared;
    std::size_t bytes = 0;
    int max_bits = 0;
    for (int e = 0; e < experts; ++e) {
      const Tuple& t = c.tuples[static_cast<std::size_t>(e) % c.tuples.size()];
      bytes += static_cast<std::size_t>(t.gate + t.up + t.down) * static_cast<std::size_t>(c.hidden) / 8 *
               static_cast<std::size_t>(c.intermediate);
      max_bits = std::max({max_bits, t.gate, t.up, t.down});
    }
    unsigned char* at = alloc<unsigned char>(bytes);
    fill_words<<<2048, 256>>>(reinterpret_cast<std::uint32_t*>(at), bytes / 4, index * 7919u);
    const __half* common = c.common_suh ? halves(static_cast<std::size_t>(c.hidden), 1.0f, index) : nullptr;
    std::vector<ExpertRef> refs;
    for (int e = 0; e < experts; ++e) {
      const Tuple& t = c.tuples[static_cast<std::size_t>(e) % c.tuples.size()];
      ExpertRef ref{};
      const std::uint32_t seed = index * 1000003u + static_cast<std::uint32_t>(e) * 101u;
      ref.gate = matrix(at, c.hidden, c.intermediate, t.gate, common, seed);
      ref.up = matrix(at, c.hidden, c.intermediate, t.up, common, seed + 10);
      ref.down = matrix(at, c.intermediate, c.hidden, t.down, nullptr, seed + 20);
      ref.intermediate = c.intermediate;
      refs.push_back(ref);
    }
    ExpertRef* device_refs = alloc<ExpertRef>(refs.size());
    require(cudaMemcpy(device_refs, refs.data(), refs.size() * sizeof(ExpertRef), cudaMemcpyHostToDevice), "experts");
    layers_.push_back({device_refs, c.routed, c.shared, c.top_k, c.hidden, c.intermediate, max_bits, true, common});
  }
  void route() {
    std::uint64_t state = 12345;
    const auto below = [&](int n) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return static_cast<int>((state >> 33) % static_cast<std::uint64_t>(n));
    };
    std::vector<int> ids, pool;
    for (int e = 0; e < case_.routed; ++e) pool.push_back(e);
    for (int t = 0; t < kLayers * kMaxTokens; ++t) {
      for (int j = 0; j < case_.top_k; ++j) {
        std::swap(pool[static_cast<std::size_t>(j)], pool[static_cast<std::size_t>(j + below(case_.routed - j))]);
        ids.push_back(pool[static_cast<std::size_t>(j)]);
      }
    }
    require(cudaMemcpy(ids_, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice), "ids");
  }

  const Case& case_;
  std::vector<MoeLayer> layers_;
  std::vector<void*> allocations_;
  __half* x_ = nullptr;
  float *y_ = nullptr, *weights_ = nullptr;
  unsigned char* workspace_ = nullptr;
  int* ids_ = nullptr;
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
    case MoePath::kIntStream2:
      return tokens <= 4;
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
  if (argc < 3 || (argc == 4 && string_view(argv[3]) != "--brief") || argc > 4) {
    std::printf("usage: moe_layer RESULT.json REVISION [--brief] | --profile TOKENS PATH\n");
    return 2;
  }
  return fairway::kernels::cuda::bench::run(argv[1], argv[2], argc == 4);
}
