// The search of trellis_search.h, one state after the other: what the vector bodies are compared with, and what runs
// where there are none.
#include <cmath>

#include "codec/bits.inc"
#include "quantize/trellis_search.h"

namespace fairway::quantize {
namespace {

// The cheapest state into `link`: its choice, and its cost through `cost`.
int cheapest(const SearchMemory& memory, const float* before, float target, int link, int bits, float& cost) {
  int best = 0;
  cost = 0;
  for (int h = 0; h < 1 << bits; ++h) {
    const int state = h * links_of(bits) + link;
    const float d = memory.values[value_index(h, link, bits, 1)] - target;
    const float total = std::fma(d, d, before[state >> bits]);
    if (h > 0 && !(total < cost)) continue;
    best = h;
    cost = total;
  }
  return best;
}

template <int kBits>
const float* run(const SearchMemory& memory, const float* targets, int first, int begin, int end) {
  constexpr int kLinks = links_of(kBits);
  float* after = memory.costs + static_cast<std::size_t>(begin) * kLinks;
  for (int i = begin; i < end; ++i) {
    const float* before = after;
    after += kLinks;
    const float target = targets[(first + i) % codec::kTileWeights];
    for (int link = 0; link < kLinks; ++link) cheapest(memory, before, target, link, kBits, after[link]);
  }
  return after;
}

template <int kBits>
int trace(const SearchMemory& memory, const float* targets, int first, int begin, int end, int link,
          std::uint16_t* states) {
  constexpr int kLinks = links_of(kBits);
  for (int i = end; i-- > begin;) {
    const float* before = memory.costs + static_cast<std::size_t>(i) * kLinks;
    float cost;
    const int h = cheapest(memory, before, targets[(first + i) % codec::kTileWeights], link, kBits, cost);
    const int state = h * kLinks + link;
    states[i] = static_cast<std::uint16_t>(state);
    link = state >> kBits;
  }
  return link;
}

#define FAIRWAY_SEARCH_BODY(bits) {run<bits>, trace<bits>},
constexpr SearchBody kBodies[] = {{nullptr, nullptr}, FAIRWAY_FOR_EACH_BITS(FAIRWAY_SEARCH_BODY)};
#undef FAIRWAY_SEARCH_BODY

}  // namespace

const SearchKernel kScalarSearch = {"scalar", 1, kBodies};

}  // namespace fairway::quantize
