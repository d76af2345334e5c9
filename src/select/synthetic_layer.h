// MoE layers of a given geometry with random trellis weights, for timing kernels without a model. Every code word is
// valid, so random bytes are as good as coded ones; several layers share one buffer of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "select/call_timer.h"

namespace fairway::select {

// Sizes of the MoE layers of a model.
struct MoeGeometry {
  std::string_view name;
  int hidden, intermediate, experts, top_k, always_on;
};
// "demo" (the bundled model), "glm47" (GLM-4.7-Flash), "qwen3-30b" (Qwen3-30B-A3B).
const std::vector<MoeGeometry>& known_geometries();
const MoeGeometry& geometry(std::string_view name);  // Error(kUsage) lists the names

// Bit tuples of experts, by share.
struct BitMix {
  std::string name;  // "uniform 3", "(6,2,3)", "75% 2-bit", ...
  std::vector<TupleShare> shares;
};
// The ten mixes that selection is measured on.
const std::vector<BitMix>& known_mixes();

class SyntheticLayers {
 public:
  // As many layers as `pool_bytes` of codes give, at least one and at most 16: cold if the pool exceeds the caches. The
  // tuples of a mix are spread evenly over the experts; scales are random signs times a magnitude that keeps outputs of
  // order one. Error(kUsage) for sizes that are no multiples of 128 after padding, or an empty mix.
  SyntheticLayers(const MoeGeometry& geometry, const BitMix& mix, codec::Codebook codebook, std::int64_t pool_bytes,
                  std::uint64_t seed = 1);

  const std::vector<TuneLayer>& layers() const { return layers_; }
  std::int64_t layer_bytes() const { return layer_bytes_; }

 private:
  struct Layer {
    std::vector<kernels::ExpertWeights> experts, always_on;
  };
  kernels::LinearWeights matrix(int in, int out, int bits, codec::Codebook codebook);

  std::vector<std::uint8_t> codes_;
  std::size_t next_ = 0;
  std::int64_t layer_bytes_ = 0;
  std::vector<float> scales_;
  std::vector<std::unique_ptr<Layer>> storage_;
  std::vector<TuneLayer> layers_;
};

}  // namespace fairway::select
