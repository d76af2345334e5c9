// The best closed path of a tile, proven: branch and bound over the link that the path closes with.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "codec/half.h"
#include "codec/packing.h"
#include "quantize/tile_coder.h"
#include "quantize/trellis_search.h"

namespace fairway::quantize {

// A set of links, those with link & mask == value, and the cheapest path that begins and ends in it, not necessarily in
// the same link: a bound for the closed paths through the set.
struct LinkSet {
  int mask, value;
  double bound;
  int begin, end;
};

class ExactTile {
 public:
  using Tile = std::array<float, codec::kTileWeights>;
  using States = std::array<std::uint16_t, codec::kTileWeights>;

  ExactTile(const Tile& tile, codec::Codebook codebook, int bits)
      : tile_(tile), bits_(bits), links_(links_of(bits)), kernel_(vector_kernel()) {
    values_.resize(kStates + kPad);
    costs_.resize(cost_elems(bits, kernel_.lanes) + kPad);
    decisions_.resize(static_cast<std::size_t>(kMaxSearchSteps) *
                      static_cast<std::size_t>(decision_words(bits, kernel_.lanes)));
    const auto& table = codec::codebook_table(codebook);
    for (int s = 0; s < kStates; ++s) {
      natural_[static_cast<std::size_t>(s)] = codec::float_from_half(table[static_cast<std::size_t>(s)]);
      aligned(values_)[value_index(s / links_, s % links_, bits, kernel_.lanes)] =
          natural_[static_cast<std::size_t>(s)];
    }
  }

  // `best` must hold a closed path; it becomes the optimum, and its error is returned.
  double solve(States& best) {
    double least = error(best);
    std::vector<LinkSet> open;
    const auto consider = [&](int mask, int value) {
      States states;
      const LinkSet set = search(mask, value, states);
      if (set.bound >= least) return;
      if (set.begin != set.end) {
        open.push_back(set);
        return;
      }
      least = set.bound;
      best = states;
    };
    consider(0, 0);
    while (!open.empty()) {
      const auto next = std::min_element(open.begin(), open.end(),
                                         [](const LinkSet& a, const LinkSet& b) { return a.bound < b.bound; });
      const LinkSet set = *next;
      open.erase(next);
      if (set.bound >= least) break;
      const int bit = static_cast<int>(std::bit_floor(static_cast<unsigned>(set.begin ^ set.end)));
      consider(set.mask | bit, set.value);
      consider(set.mask | bit, set.value | bit);
    }
    return least;
  }

 private:
  static constexpr std::size_t kPad = 16;

  static const SearchKernel& vector_kernel() {
#if defined(__x86_64__)
    if (available_coder_isas().back() == CoderIsa::kAvx512) return kAvx512Search;
    if (available_coder_isas().back() == CoderIsa::kAvx2) return kAvx2Search;
#endif
    return kScalarSearch;
  }

  static float* aligned(std::vector<float>& memory) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (64 - address % 64) % 64 / sizeof(float);
  }

  LinkSet search(int mask, int value, States& states) {
    const SearchMemory memory{aligned(values_), aligned(costs_), decisions_.data()};
    for (int l = 0; l < links_; ++l) {
      memory.costs[l] = (l & mask) == value ? 0.0f : std::numeric_limits<float>::infinity();
    }
    const float* costs = kernel_.bodies[bits_].run(memory, tile_.data(), 0, 0, codec::kTileWeights);
    int end = -1;
    for (int l = 0; l < links_; ++l) {
      if ((l & mask) == value && (end < 0 || costs[l] < costs[end])) end = l;
    }
    const int begin = kernel_.bodies[bits_].trace(memory, tile_.data(), 0, 0, codec::kTileWeights, end, states.data());
    return {mask, value, error(states), begin, end};
  }

  double error(const States& states) const {
    double sum = 0;
    for (std::size_t p = 0; p < states.size(); ++p) {
      const double d = double{natural_[states[p]]} - double{tile_[p]};
      sum += d * d;
    }
    return sum;
  }

  const Tile& tile_;
  int bits_, links_;
  const SearchKernel& kernel_;
  std::vector<float> values_, costs_;
  std::vector<std::uint16_t> decisions_;
  std::array<float, kStates> natural_;
};

}  // namespace fairway::quantize
