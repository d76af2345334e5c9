// Inside the tile coder: Viterbi searches over a stretch of a tile's ring of weights, one body per instruction set.
//
// Two neighbouring weights share a link, the 16 - K newest bits of the first one's state. A state s of K bits a weight
// leaves link s >> K and enters link s mod 2^(16-K); its top K bits, the choice h, tell the 2^K states apart that enter
// one link. A step over a weight w sets, for every link,
//   cost'[link] = min over h of fma(d, d, cost[s >> K]),  d = value[s] - w,  s = h * 2^(16-K) + link
// in floats, each operation rounded once; the lowest h wins a tie. All bodies do just that, so they agree in every bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/trellis.h"

namespace fairway::quantize {

constexpr int kStates = 1 << codec::kStateBits;

// The functions here are static: files of an instruction set include them, and the linker must not take a copy that was
// compiled for it into code that runs everywhere.

static constexpr int links_of(int bits) {
  return kStates >> bits;
}

// The longest stretch a search goes over, in weights; see tile_coder.cc.
constexpr int kMaxSearchSteps = 640;

// What a body works on; the coder owns it. A body of `lanes` floats a vector reads `values` in the order value_index().
struct SearchMemory {
  const float* values = nullptr;  // [65536], 64-byte aligned
  // Bodies that keep costs: [kMaxSearchSteps + 1][links]; the others: [2][links], used in turn. 64-byte aligned. The
  // caller fills the first row: the cost of starting in each link, infinity if that is not allowed.
  float* costs = nullptr;
  std::uint16_t* decisions = nullptr;  // [kMaxSearchSteps][decision_words()], of bodies that do not keep costs
};

// One body for one width. `targets` is the whole ring [256]; step i is over weight (first + i) mod 256, first >= 0.
struct SearchBody {
  // Steps begin .. end - 1, the first of all or after a call that ended at `begin`. Returns the costs [links] of being
  // in each link after them. Nothing is normalised: costs only grow.
  const float* (*run)(const SearchMemory& memory, const float* targets, int first, int begin, int end);
  // The states of the cheapest path over the steps begin .. end - 1, which must have been run, that ends in `link`:
  // states[i] is that of step i. Returns the link the path comes from.
  int (*trace)(const SearchMemory& memory, const float* targets, int first, int begin, int end, int link,
               std::uint16_t* states);
};

struct SearchKernel {
  const char* name;
  int lanes;                 // floats of a vector; 1: scalar
  const SearchBody* bodies;  // [9], by width; entry 0 is not used
};

// Which way a body finds its choices again when it goes back. Keeping the costs of all steps makes a search a third
// cheaper, because nothing has to find out which choice has won, but it is 8 MB a lap at 3 bits and 32 MB at 1; there
// the winners of a tournament are kept, one bit for each of its 2^K - 1 matches, at most 1.8 MB.
static constexpr bool keeps_costs(int bits, int lanes) {
  return bits > 3 || lanes == 1;
}

// Vectors of links that are searched together, so that their chains of minima overlap.
static constexpr int group_vectors(int bits, int lanes) {
  return keeps_costs(bits, lanes) && lanes > 1 ? 4 : 1;
}

// Different predecessor links of a vector of neighbouring links. Lane j * predecessors + i belongs to the j-th of the
// links that follow predecessor i, so that loading and repeating a few costs needs no shuffle.
static constexpr int predecessors(int bits, int lanes) {
  return lanes >> bits > 0 ? lanes >> bits : 1;
}

static constexpr int lane_of(int link, int bits, int lanes) {
  const int offset = link % lanes, several = predecessors(bits, lanes);
  return several == 1 ? offset : (offset & ((1 << bits) - 1)) * several + (offset >> bits);
}

// lane_of() of a vector of neighbouring links, as a shuffle wants it.
template <int kBits, int kLanes>
struct LaneOrder {
  int lanes[kLanes] = {};
  constexpr LaneOrder() {
    for (int link = 0; link < kLanes; ++link) lanes[link] = lane_of(link, kBits, kLanes);
  }
};

// Where `values` has the value of state h * links + link: in the order in which a step reads it.
static constexpr int value_index(int choice, int link, int bits, int lanes) {
  const int vector = link / lanes, group = group_vectors(bits, lanes);
  return (((vector / group) * (1 << bits) + choice) * group + vector % group) * lanes + lane_of(link, bits, lanes);
}

static constexpr std::size_t cost_elems(int bits, int lanes) {
  return static_cast<std::size_t>(keeps_costs(bits, lanes) ? kMaxSearchSteps + 1 : 2) * links_of(bits);
}

static constexpr int matches(int bits) {
  return (1 << bits) - 1;
}

// Words of `decisions` a step writes: [vector][match], bit = lane.
static constexpr int decision_words(int bits, int lanes) {
  return keeps_costs(bits, lanes) ? 0 : links_of(bits) / lanes * matches(bits);
}

extern const SearchKernel kScalarSearch;
#if defined(__x86_64__)
extern const SearchKernel kAvx2Search;
extern const SearchKernel kAvx512Search;
#endif

}  // namespace fairway::quantize
