// The search of trellis_search.h for vectors of floats. A file per instruction set defines `Simd` in its namespace and
// includes this inside of it: kLanes, Vector, load, store, spread<n> (n floats repeated over all lanes), natural<bits>
// (lanes from the order of lane_of to that of links), subtract, fma, minimum, infinity, and less (a mask, bit = lane).
// No include guard: every instruction set has its own copy.

// How the costs of the links that a vector's states leave are fetched, and where they begin.
template <int kBits>
struct Shape {
  static constexpr int kLanes = Simd::kLanes;
  static constexpr int kLinks = links_of(kBits), kChoices = 1 << kBits;
  static constexpr int kGroup = group_vectors(kBits, kLanes);
  static constexpr int kVectors = kLinks / kLanes;
  static constexpr int kStride = kLinks >> kBits;  // between the predecessor links of two choices
  static constexpr int kPredecessors = predecessors(kBits, kLanes);
  static_assert(kVectors % kGroup == 0);
};

// Keeps costs: no more than minima, kGroup vectors of links at once.
template <int kBits>
void step_costs(const float* values, float target, const float* before, float* after) {
  using S = Shape<kBits>;
  using Vector = Simd::Vector;
  const Vector w = Simd::spread<1>(&target);
  for (int vector = 0; vector < S::kVectors; vector += S::kGroup) {
    Vector best[S::kGroup];
    for (int u = 0; u < S::kGroup; ++u) best[u] = Simd::infinity();
    for (int h = 0; h < S::kChoices; ++h) {
      const float* from = before + h * S::kStride;
#pragma GCC unroll 4
      for (int u = 0; u < S::kGroup; ++u) {
        const Vector d = Simd::subtract(Simd::load(values), w);
        values += S::kLanes;
        const Vector cost = Simd::spread<S::kPredecessors>(from + ((vector + u) * S::kLanes >> kBits));
        const Vector total = Simd::fma(d, d, cost);
        best[u] = Simd::minimum(best[u], total);
      }
    }
#pragma GCC unroll 4
    for (int u = 0; u < S::kGroup; ++u) {
      Simd::store(after + (vector + u) * S::kLanes, Simd::natural<kBits>(best[u]));
    }
  }
}

// Keeps who won the matches of a tournament between the choices: neighbours meet, the lower one wins a tie.
template <int kBits>
void step_tournament(const float* values, float target, const float* before, float* after, std::uint16_t* decisions) {
  using S = Shape<kBits>;
  using Vector = Simd::Vector;
  const Vector w = Simd::spread<1>(&target);
  for (int vector = 0; vector < S::kVectors; ++vector) {
    Vector total[S::kChoices];
#pragma GCC unroll 8
    for (int h = 0; h < S::kChoices; ++h) {
      const Vector d = Simd::subtract(Simd::load(values), w);
      values += S::kLanes;
      const float* from = before + h * S::kStride + (vector * S::kLanes >> kBits);
      total[h] = Simd::fma(d, d, Simd::spread<S::kPredecessors>(from));
    }
#pragma GCC unroll 8
    for (int left = S::kChoices / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < left; ++i) {
        *decisions++ = static_cast<std::uint16_t>(Simd::less(total[2 * i + 1], total[2 * i]));
        total[i] = Simd::minimum(total[2 * i], total[2 * i + 1]);
      }
    }
    Simd::store(after + vector * S::kLanes, Simd::natural<kBits>(total[0]));
  }
}

template <int kBits>
const float* run(const SearchMemory& memory, const float* targets, int first, int begin, int end) {
  constexpr std::ptrdiff_t kLinks = links_of(kBits), kWords = decision_words(kBits, Simd::kLanes);
  for (int i = begin; i < end; ++i) {
    const float target = targets[(first + i) % codec::kTileWeights];
    if constexpr (keeps_costs(kBits, Simd::kLanes)) {
      float* before = memory.costs + i * kLinks;
      step_costs<kBits>(memory.values, target, before, before + kLinks);
    } else {
      step_tournament<kBits>(memory.values, target, memory.costs + (i & 1) * kLinks, memory.costs + (~i & 1) * kLinks,
                             memory.decisions + i * kWords);
    }
  }
  return memory.costs + (keeps_costs(kBits, Simd::kLanes) ? end : end & 1) * kLinks;
}

// The choice that step_costs took for a link, found by doing it again.
template <int kBits>
int choice_from_costs(const float* values, float target, const float* before, int link) {
  using S = Shape<kBits>;
  values += value_index(0, link, kBits, S::kLanes);
  before += link >> kBits;
  int best = 0;
  float least = 0;
  for (int h = 0; h < S::kChoices; ++h) {
    const float d = values[h * S::kGroup * S::kLanes] - target;
    const float total = __builtin_fmaf(d, d, before[h * S::kStride]);
    if (h == 0 || total < least) {
      best = h;
      least = total;
    }
  }
  return best;
}

// The choice that won, from the final back to the first round.
template <int kBits>
int choice_from_decisions(const std::uint16_t* decisions, int link) {
  decisions += link / Simd::kLanes * matches(kBits);
  const int lane = lane_of(link, kBits, Simd::kLanes);
  int winner = 0, round = matches(kBits);
  for (int players = 1; players < 1 << kBits; players *= 2) {
    round -= players;  // first match of the round with `players` winners
    winner = 2 * winner + (decisions[round + winner] >> lane & 1);
  }
  return winner;
}

template <int kBits>
int trace(const SearchMemory& memory, const float* targets, int first, int begin, int end, int link,
          std::uint16_t* states) {
  constexpr std::ptrdiff_t kLinks = links_of(kBits), kWords = decision_words(kBits, Simd::kLanes);
  for (int i = end; i-- > begin;) {
    int h;
    if constexpr (keeps_costs(kBits, Simd::kLanes)) {
      const float target = targets[(first + i) % codec::kTileWeights];
      h = choice_from_costs<kBits>(memory.values, target, memory.costs + i * kLinks, link);
    } else {
      h = choice_from_decisions<kBits>(memory.decisions + i * kWords, link);
    }
    const int state = h * static_cast<int>(kLinks) + link;
    states[i] = static_cast<std::uint16_t>(state);
    link = state >> kBits;
  }
  return link;
}

#define FAIRWAY_SEARCH_BODY(bits) {run<bits>, trace<bits>},
constexpr SearchBody kBodies[] = {{nullptr, nullptr}, FAIRWAY_FOR_EACH_BITS(FAIRWAY_SEARCH_BODY)};
#undef FAIRWAY_SEARCH_BODY
