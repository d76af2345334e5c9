// Random codes, and experts that point into them.
#include "select/synthetic_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "codec/packing.h"
#include "fairway/error.h"

namespace fairway::select {
namespace {

using codec::padded;

constexpr std::size_t kMostLayers = 16;
constexpr std::size_t kRandomBytes = 16 << 20;

BitMix uniform(int bits) {
  const auto width = static_cast<std::uint8_t>(bits);
  return {fmt::format("uniform {}", bits), {{{width, width, width}, 1}}};
}

// Tuples of `count` experts in the proportions of the mix, in turn, so that any few experts have about the same
// mixture.
std::vector<kernels::BitTuple> spread(const BitMix& mix, int count) {
  double total = 0;
  for (const TupleShare& part : mix.shares) total += part.share;
  std::vector<double> due(mix.shares.size());
  std::vector<kernels::BitTuple> tuples;
  for (int e = 0; e < count; ++e) {
    for (std::size_t i = 0; i < due.size(); ++i) due[i] += mix.shares[i].share / total;
    const auto next = static_cast<std::size_t>(std::max_element(due.begin(), due.end()) - due.begin());
    due[next] -= 1;
    tuples.push_back(mix.shares[next].bits);
  }
  return tuples;
}

}  // namespace

const std::vector<MoeGeometry>& known_geometries() {
  static const std::vector<MoeGeometry> all = {
      {"demo", 384, 128, 32, 4, 1}, {"glm47", 2048, 1536, 64, 4, 1}, {"qwen3-30b", 2048, 768, 128, 8, 0}};
  return all;
}

const MoeGeometry& geometry(std::string_view name) {
  std::string names;
  for (const MoeGeometry& known : known_geometries()) {
    if (known.name == name) return known;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  throw Error(ErrorKind::kUsage, fmt::format("geometry '{}' does not exist; known: {}", name, names));
}

const std::vector<BitMix>& known_mixes() {
  static const std::vector<BitMix> all = {
      uniform(2),
      uniform(3),
      uniform(4),
      uniform(6),
      {"(6,2,3)", {{{6, 2, 3}, 1}}},
      {"(6,3,4)", {{{6, 3, 4}, 1}}},
      {"(6,2,4)", {{{6, 2, 4}, 1}}},
      {"75% 2-bit", {{{2, 2, 2}, 3}, {{4, 4, 4}, 1}}},
      {"half 2, half 4", {{{2, 2, 2}, 1}, {{4, 4, 4}, 1}}},
      {"mixed 2/3/4", {{{2, 2, 2}, 1}, {{3, 3, 3}, 1}, {{4, 4, 4}, 1}}},
  };
  return all;
}

SyntheticLayers::SyntheticLayers(const MoeGeometry& g, const BitMix& mix, codec::Codebook codebook,
                                 std::int64_t pool_bytes, std::uint64_t seed) {
  if (mix.shares.empty()) throw Error(ErrorKind::kUsage, "a layer without bit widths");
  std::mt19937_64 random(seed);
  const int widest = padded(std::max(g.hidden, g.intermediate));
  // Inner weights have a deviation near one, so outputs of order one need 1 / sqrt(in).
  scales_.resize(static_cast<std::size_t>(widest));
  for (float& scale : scales_) {
    scale = (random() % 2 == 0 ? 1.0f : -1.0f) / std::pow(static_cast<float>(g.hidden), 0.25f);
  }
  const std::vector<kernels::BitTuple> tuples = spread(mix, g.experts + g.always_on);
  const auto bytes = [](int in, int out, int bits) { return std::int64_t{padded(in)} * padded(out) * bits / 8; };
  for (const kernels::BitTuple& bits : tuples) {
    layer_bytes_ += bytes(g.hidden, g.intermediate, bits.gate) + bytes(g.hidden, g.intermediate, bits.up) +
                    bytes(g.intermediate, g.hidden, bits.down);
  }
  const auto count = std::clamp<std::size_t>(static_cast<std::size_t>(pool_bytes / layer_bytes_), 1, kMostLayers);
  // One block is random and the rest repeats it: time does not depend on values, and copies are made ten times as fast.
  codes_.resize(count * static_cast<std::size_t>(layer_bytes_));
  const std::size_t block = std::min(kRandomBytes, codes_.size());
  for (std::size_t i = 0; i + 8 <= block; i += 8) {
    const std::uint64_t word = random();
    std::memcpy(codes_.data() + i, &word, 8);
  }
  for (std::size_t i = block; i < codes_.size(); i += block) {
    std::memcpy(codes_.data() + i, codes_.data(), std::min(block, codes_.size() - i));
  }
  const auto expert = [&](const kernels::BitTuple& bits) {
    return kernels::ExpertWeights{matrix(g.hidden, g.intermediate, bits.gate, codebook),
                                  matrix(g.hidden, g.intermediate, bits.up, codebook),
                                  matrix(g.intermediate, g.hidden, bits.down, codebook)};
  };
  for (std::size_t l = 0; l < count; ++l) {
    auto layer = std::make_unique<Layer>();
    for (int e = 0; e < g.experts + g.always_on; ++e) {
      (e < g.experts ? layer->experts : layer->always_on).push_back(expert(tuples[static_cast<std::size_t>(e)]));
    }
    layers_.push_back({&layer->experts,
                       &layer->always_on,
                       describe_moe_layer(layer->experts, layer->always_on, g.top_k, g.hidden),
                       {},
                       {}});
    storage_.push_back(std::move(layer));
  }
}

kernels::LinearWeights SyntheticLayers::matrix(int in, int out, int bits, codec::Codebook codebook) {
  kernels::TrellisMatrix matrix;
  matrix.words = codes_.data() + next_;
  matrix.in = padded(in);
  matrix.out = padded(out);
  matrix.bits = bits;
  matrix.codebook = codebook;
  matrix.suh = scales_.data();
  matrix.svh = scales_.data();
  next_ += static_cast<std::size_t>(std::int64_t{matrix.in} * matrix.out * bits / 8);
  return {in, out, matrix};
}

}  // namespace fairway::select
