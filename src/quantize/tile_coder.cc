// The closing of the tile coder: which searches over the ring of weights make a closed path out of open ones.
//
// A search with free ends that goes over the weights a and a half times or more passes some of them twice, and far from
// its ends it has forgotten them. Where it comes by the same link at steps j and j + 256, the lap between is a closed
// path, and nearly always the best one: the search prefers it to all others with what lies before and after. If there
// is no such j the search goes on for some weights, until there is one or memory ends; then the two links that the
// middle of the search suggests are imposed on laps of their own.
//
// Mean squared error against the proven optimum (branch and bound, tests/quantize/exact_tile.h), and laps: searched
// steps / 256. mul1, 64 Gaussian tiles a width at the best scale (laps: 48). Time of a lap: the least of 40, on a Xeon
// of the Sapphire Rapids generation at 2.75 GHz, November 2026; a tile takes laps * that.
//   bits   quick          standard       thorough       ms a lap: AVX-512  AVX2
//   1      1.0021, 1.61   1.0018, 1.67   1.0005, 2.42             2.15     2.56
//   2      1.0019, 1.74   1.0015, 1.87   1.0002, 2.46             1.44     1.83
//   3      1.0019, 1.39   1.0006, 1.52   1.0000, 2.26             1.03     1.58
//   4      1.0013, 1.31   1.0007, 1.43   1.0000, 2.25             0.71     1.13
//   5      1.0005, 1.28   1.0004, 1.42   1.0000, 2.25             0.65     1.09
//   6      1.0008, 1.23   1.0001, 1.41   1.0000, 2.25             0.65     1.06
//   7      1.0006, 1.19   1.0000, 1.38   1.0000, 2.25             0.61     1.03
//   8      1.0003, 1.18   1.0000, 1.38   1.0000, 2.25             0.57     0.93
// Nine tiles in ten are coded in the best way, others are worse by up to 2 %.
//
// The usual way, a free lap from weight 128 and then one with its link at weight 0 imposed, takes 2.00 and comes
// to 1.0061, 1.0039, 1.0017 and 1.0001 at 2, 3, 4 and 6 bits (16 tiles). With the link from a shorter stretch around
// weight 0 it was worse by several times; searching a part of the found path again, or the lap from another cut, did
// not make up for it; the best of imposed laps at 4 cuts came to 1.0003 at 3 bits in 6.00.
#include "quantize/tile_coder.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "backend/cpu/features.h"
#include "codec/bits.inc"
#include "codec/half.h"
#include "codec/packing.h"
#include "fairway/error.h"
#include "quantize/trellis_search.h"

namespace fairway::quantize {
namespace {

constexpr int kLap = codec::kTileWeights;
constexpr int kExtension = 16;  // steps that a search goes on for if it has not closed
constexpr std::size_t kAlignment = 64;

// Targets this far outside of the codebook are searched as if they were no farther. Costs stay small, so that the
// rounding of a far target's huge cost does not hide all others; the nearest values win by a wide margin as it is.
constexpr float kFarOutside = 8;

struct NamedIsa {
  CoderIsa isa;
  const char* name;
  const SearchKernel* kernel;
  std::uint32_t features;
};

constexpr NamedIsa kIsas[] = {
    {CoderIsa::kScalar, "scalar", &kScalarSearch, backend::kCpuBaseline},
#if defined(__x86_64__)
    {CoderIsa::kAvx2, "avx2", &kAvx2Search, backend::kCpuAvx2},
    {CoderIsa::kAvx512, "avx512", &kAvx512Search, backend::kCpuAvx2 | backend::kCpuAvx512},
#endif
};

bool can_run(const NamedIsa& isa) {
  return (isa.features & ~backend::cpu_info().features) == 0;
}

const NamedIsa& find_isa(CoderIsa isa) {
  const NamedIsa* best = nullptr;
  for (const NamedIsa& candidate : kIsas) {
    if (can_run(candidate) && (isa == CoderIsa::kBest || isa == candidate.isa)) best = &candidate;
  }
  if (best == nullptr) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("tile coder for {}: this processor has only {}", coder_isa_name(isa),
                            backend::cpu_feature_names(backend::cpu_info().features)));
  }
  return *best;
}

double squared(double value, double target) {
  return (value - target) * (value - target);
}

// Steps before a search is first asked whether it has closed.
int first_steps(CoderEffort effort) {
  return kLap + (effort == CoderEffort::kQuick ? 32 : effort == CoderEffort::kStandard ? 96 : 320);
}

}  // namespace

const char* coder_isa_name(CoderIsa isa) {
  for (const NamedIsa& named : kIsas) {
    if (named.isa == isa) return named.name;
  }
  return isa == CoderIsa::kAvx2 ? "avx2" : isa == CoderIsa::kAvx512 ? "avx512" : "best";
}

const char* coder_effort_name(CoderEffort effort) {
  return effort == CoderEffort::kQuick ? "quick" : effort == CoderEffort::kStandard ? "standard" : "thorough";
}

std::vector<CoderIsa> available_coder_isas() {
  std::vector<CoderIsa> isas;
  for (const NamedIsa& named : kIsas) {
    if (can_run(named)) isas.push_back(named.isa);
  }
  return isas;
}

template <typename T>
TileCoder::Aligned<T> TileCoder::allocate(std::size_t count) {
  const std::size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  auto* const data = static_cast<T*>(std::aligned_alloc(kAlignment, std::max(bytes, kAlignment)));
  if (data == nullptr) throw Error(ErrorKind::kResource, fmt::format("tile coder: no memory for {} bytes", bytes));
  return Aligned<T>(data);
}

TileCoder::TileCoder(codec::Codebook codebook, int bits, CoderIsa isa, CoderEffort effort)
    : codebook_(codebook), bits_(bits), effort_(effort) {
  if (bits < FAIRWAY_MIN_BITS || bits > FAIRWAY_MAX_BITS) {
    throw Error(ErrorKind::kUsage, fmt::format("tile coder: {} bits a weight, expected {} to {}", bits,
                                               FAIRWAY_MIN_BITS, FAIRWAY_MAX_BITS));
  }
  const NamedIsa& found = find_isa(isa);
  isa_ = found.isa;
  kernel_ = found.kernel;
  values_ = allocate<float>(kStates);
  const auto& table = codec::codebook_table(codebook);
  const int links = links_of(bits);
  for (int state = 0; state < kStates; ++state) {
    const int index = value_index(state / links, state % links, bits, kernel_->lanes);
    values_[static_cast<std::size_t>(index)] = codec::float_from_half(table[static_cast<std::size_t>(state)]);
  }
  const auto [least, most] = std::minmax_element(values_.get(), values_.get() + kStates);
  lowest_ = *least - kFarOutside;
  highest_ = *most + kFarOutside;
  costs_ = allocate<float>(cost_elems(bits, kernel_->lanes));
  path_.resize(kMaxSearchSteps);
  decisions_ = allocate<std::uint16_t>(static_cast<std::size_t>(kMaxSearchSteps) *
                                       static_cast<std::size_t>(decision_words(bits, kernel_->lanes)));
}

int TileCoder::lanes() const {
  return kernel_->lanes;
}

double TileCoder::encode(Target target, States states) {
  for (std::size_t p = 0; p < kLap; ++p) near_[p] = std::clamp(target[p], lowest_, highest_);
  std::fill_n(costs_.get(), links_of(bits_), 0.0f);
  int searched = 0;
  for (int steps = first_steps(effort_); steps <= kMaxSearchSteps; steps += kExtension) {
    const float* costs = run(0, searched, steps);
    searched = steps;
    end_ = static_cast<int>(std::min_element(costs, costs + links_of(bits_)) - costs);
    trace(0, steps);
    if (const int begin = best_closed_lap(target, steps); begin >= 0) {
      copy_lap(begin, begin, states);
      return error(target, states);
    }
  }
  return impose_middle(target, searched, states);
}

const float* TileCoder::run(int first, int begin, int end) {
  const SearchMemory memory{values_.get(), costs_.get(), decisions_.get()};
  steps_ += end - begin;
  return kernel_->bodies[bits_].run(memory, near_.data(), first, begin, end);
}

void TileCoder::trace(int first, int steps) {
  const SearchMemory memory{values_.get(), costs_.get(), decisions_.get()};
  kernel_->bodies[bits_].trace(memory, near_.data(), first, 0, steps, end_, path_.data());
}

int TileCoder::link_before(int step, int steps) const {
  return step == steps ? end_ : path_[static_cast<std::size_t>(step)] >> bits_;
}

// Of the laps of the path that come back to the link they began with, the first step of the one with the least error;
// -1 if there is none.
int TileCoder::best_closed_lap(Target target, int steps) const {
  int best = -1;
  double lap = 0, least = 0;
  for (int i = 0; i < kLap; ++i) lap += squared_error(target, i);
  for (int begin = 0; begin + kLap <= steps; ++begin) {
    if (begin > 0) lap += squared_error(target, begin + kLap - 1) - squared_error(target, begin - 1);
    if (link_before(begin, steps) != link_before(begin + kLap, steps)) continue;
    if (best >= 0 && lap >= least) continue;
    best = begin;
    least = lap;
  }
  return best;
}

double TileCoder::impose_middle(Target target, int steps, States states) {
  const int middle = (steps - kLap) / 2;
  const int links[] = {link_before(middle, steps), link_before(middle + kLap, steps)};
  double least = std::numeric_limits<double>::infinity();
  std::array<std::uint16_t, kLap> tried;
  for (const int link : links) {
    std::fill_n(costs_.get(), links_of(bits_), std::numeric_limits<float>::infinity());
    costs_[static_cast<std::size_t>(link)] = 0;
    run(middle % kLap, 0, kLap);
    end_ = link;
    trace(middle % kLap, kLap);
    copy_lap(middle, 0, tried);
    const double sum = error(target, tried);
    if (sum >= least) continue;
    least = sum;
    std::copy(tried.begin(), tried.end(), states.begin());
  }
  return least;
}

// The lap of the path from step `begin`, which is over the weight `first` mod 256.
void TileCoder::copy_lap(int first, int begin, States states) const {
  for (int i = 0; i < kLap; ++i) {
    states[static_cast<std::size_t>((first + i) % kLap)] = path_[static_cast<std::size_t>(begin + i)];
  }
}

// Of step `step` of a search that began at weight 0.
double TileCoder::squared_error(Target target, int step) const {
  return squared(value(path_[static_cast<std::size_t>(step)]), target[static_cast<std::size_t>(step % kLap)]);
}

double TileCoder::error(Target target, States states) const {
  double sum = 0;
  for (std::size_t p = 0; p < kLap; ++p) sum += squared(value(states[p]), target[p]);
  return sum;
}

double TileCoder::value(int state) const {
  const int links = links_of(bits_);
  return values_[static_cast<std::size_t>(value_index(state / links, state % links, bits_, kernel_->lanes))];
}

}  // namespace fairway::quantize
