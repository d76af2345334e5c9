// Random layers in device memory.
#include <algorithm>
#include <cmath>

#include "backend/cuda/check.cuh"
#include "cuda/layers.cuh"

namespace fairway::kernels::cuda::bench {
namespace {

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

}  // namespace

template <typename T>
T* Layers::alloc(std::size_t count) {
  void* p = nullptr;
  backend::check_cuda(cudaMalloc(&p, count * sizeof(T)), "cudaMalloc");
  allocations_.push_back(p);
  return static_cast<T*>(p);
}

__half* Layers::halves(std::size_t count, float scale, std::uint32_t seed) {
  __half* p = alloc<__half>(count);
  fill_halves<<<256, 256>>>(p, count, scale, seed);
  backend::check_cuda_launch("fill_halves");
  return p;
}

TrellisRef Layers::matrix(unsigned char*& at, int in, int out, int bits, const __half* suh, std::uint32_t seed) {
  const TrellisRef m{at, suh != nullptr ? suh : halves(static_cast<std::size_t>(in), 1.0f, seed),
                     halves(static_cast<std::size_t>(out), 1.0f / std::sqrt(static_cast<float>(in)), seed + 1), bits,
                     2};
  at += static_cast<std::size_t>(in) * static_cast<std::size_t>(out) / 8 * static_cast<std::size_t>(bits);
  return m;
}

void Layers::add_layer(std::uint32_t index) {
  const Case& c = case_;
  const int experts = c.routed + c.shared;
  std::size_t bytes = 0;
  MoeWidths widths;
  for (int e = 0; e < experts; ++e) {
    const Tuple& t = c.tuples[static_cast<std::size_t>(e) % c.tuples.size()];
    bytes += static_cast<std::size_t>(t.gate + t.up + t.down) * static_cast<std::size_t>(c.hidden) / 8 *
             static_cast<std::size_t>(c.intermediate);
    widths.include(t.gate, t.up, t.down);
  }
  unsigned char* at = alloc<unsigned char>(bytes);
  fill_words<<<2048, 256>>>(reinterpret_cast<std::uint32_t*>(at), bytes / 4, index * 7919u);
  backend::check_cuda_launch("fill_words");
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
  backend::check_cuda(cudaMemcpy(device_refs, refs.data(), refs.size() * sizeof(ExpertRef), cudaMemcpyHostToDevice),
                      "experts");
  layers_.push_back({device_refs, c.routed, c.shared, c.top_k, c.hidden, c.intermediate, widths, true, common});
}

void Layers::route() {
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
  backend::check_cuda(cudaMemcpy(ids_, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice), "ids");
}

Layers::Layers(const Case& c) : case_(c) {
  for (int i = 0; i < kLayers; ++i) add_layer(static_cast<std::uint32_t>(i));
  x_ = halves(std::size_t{kMaxTokens} * static_cast<std::size_t>(c.hidden), 1.0f, 77);
  y_ = alloc<float>(std::size_t{kMaxTokens} * static_cast<std::size_t>(c.hidden));
  workspace_ = alloc<unsigned char>(moe_workspace_bytes(layers_[0], kMaxTokens));
  ids_ = alloc<int>(std::size_t{kLayers} * kMaxTokens * static_cast<std::size_t>(c.top_k));
  weights_ = alloc<float>(std::size_t{kMaxTokens} * static_cast<std::size_t>(c.top_k));
  const std::vector<float> weights(static_cast<std::size_t>(kMaxTokens) * static_cast<std::size_t>(c.top_k), 0.25f);
  backend::check_cuda(cudaMemcpy(weights_, weights.data(), weights.size() * 4, cudaMemcpyHostToDevice), "weights");
  route();
}

Layers::~Layers() {
  for (void* p : allocations_) cudaFree(p);
}

void Layers::enqueue(int tokens, MoePath path, cudaStream_t stream, const MoeProbe& probe) const {
  for (int i = 0; i < kLayers; ++i) {
    const int* ids = ids_ + std::size_t{kMaxTokens} * static_cast<std::size_t>(i * case_.top_k);
    MoeCall call{x_, case_.hidden, ids, weights_, tokens, y_, case_.hidden, probe};
    if (probe.stamps != nullptr) call.probe.stamps += std::ptrdiff_t{i} * kMoeMostCtas * kMoeStamps;
    moe_swiglu(layer(i), call, path, workspace_, stream);
  }
}

double Layers::token_bytes() const {
  double bits = 0;
  for (const Tuple& t : case_.tuples) bits += t.gate + t.up + t.down;
  bits /= static_cast<double>(case_.tuples.size());
  return bits / 8 * case_.hidden * case_.intermediate * (case_.top_k + case_.shared);
}

}  // namespace fairway::kernels::cuda::bench
