// What the benchmark of the CUDA expert layer measures: cases, and the device memory of one.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda::bench {

constexpr int kLayers = 12;  // in turn: at 3 bits 4.4 GB of weights, far more than an L2 cache
constexpr int kMaxTokens = 1024;

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

// kBrief: GLM-4.7-Flash at 3 bits alone. kFew: 1 to 32 tokens, of every path that may be the fastest there.
enum class Selection { kAll, kBrief, kFew };
std::vector<Case> cases(Selection selection);

// Paths that decode an expert once for far fewer tokens than it has are not worth the time to measure.
bool worth_timing(const Case& c, int tokens, MoePath path);

// kLayers layers with random words as weights, made on the device, and uniform random routing, different in each.
class Layers {
 public:
  explicit Layers(const Case& c);  // which must live as long
  ~Layers();
  Layers(const Layers&) = delete;
  Layers& operator=(const Layers&) = delete;

  const MoeLayer& layer(int i) const { return layers_[static_cast<std::size_t>(i)]; }

  // One call of every layer. Layer i has probe.stamps + i * kMoeMostCtas * kMoeStamps, if there are any.
  void enqueue(int tokens, MoePath path, cudaStream_t stream, const MoeProbe& probe = {}) const;

  // Of weights that one token reads.
  double token_bytes() const;

 private:
  template <typename T>
  T* alloc(std::size_t count);
  __half* halves(std::size_t count, float scale, std::uint32_t seed);
  TrellisRef matrix(unsigned char*& at, int in, int out, int bits, const __half* suh, std::uint32_t seed);
  void add_layer(std::uint32_t index);
  void route();

  const Case& case_;
  std::vector<MoeLayer> layers_;
  std::vector<void*> allocations_;
  __half* x_ = nullptr;
  float *y_ = nullptr, *weights_ = nullptr;
  unsigned char* workspace_ = nullptr;
  int* ids_ = nullptr;
};

}  // namespace fairway::kernels::cuda::bench
