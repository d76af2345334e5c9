// Codes a tile: finds the closed path of the 65,536-state trellis whose codebook values are nearest to 256 weights.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "codec/trellis.h"

namespace fairway::quantize {

struct SearchKernel;

// Instruction set of the search; all give the same states.
enum class CoderIsa { kBest, kScalar, kAvx2, kAvx512 };

// How long a search may be; see tile_coder.cc for what each costs and gains.
enum class CoderEffort { kQuick, kStandard, kThorough };

const char* coder_isa_name(CoderIsa isa);           // "best", "scalar", "avx2", "avx512"
const char* coder_effort_name(CoderEffort effort);  // "quick", "standard", "thorough"
// Those that this CPU can run, kScalar first.
std::vector<CoderIsa> available_coder_isas();

// Owns the scratch of its searches, so every thread needs a coder of its own: with AVX-512 3, 4, 5, 10, 5, 3, 2 and 1
// MiB at 1 to 8 bits, with AVX2 up to 10, scalar up to 81. A coder is for one width and one codebook.
class TileCoder {
 public:
  // bits 1..8. Throws Error(kUsage) for other bits, Error(kUnsupported) if this CPU cannot run `isa`.
  TileCoder(codec::Codebook codebook, int bits, CoderIsa isa = CoderIsa::kBest,
            CoderEffort effort = CoderEffort::kStandard);

  // `target` [256]: finite weights in stream order (codec::tile_position) in units of the codebook's values. `states`
  // [256] becomes a closed path (codec::pack_states takes it). Returns the sum of squared differences between targets
  // and codebook values (halves, exact), added up in double in stream order. The result depends on nothing but the
  // arguments and `effort`.
  double encode(std::span<const float, codec::kTileWeights> target,
                std::span<std::uint16_t, codec::kTileWeights> states);

  int bits() const { return bits_; }
  codec::Codebook codebook() const { return codebook_; }
  CoderIsa isa() const { return isa_; }
  int lanes() const;  // states that one instruction takes
  // Steps over weights, of 65,536 states each, that all calls of encode() together have searched.
  std::int64_t steps() const { return steps_; }

 private:
  using Target = std::span<const float, codec::kTileWeights>;
  using States = std::span<std::uint16_t, codec::kTileWeights>;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  template <typename T>
  using Aligned = std::unique_ptr<T[], Free>;
  template <typename T>
  static Aligned<T> allocate(std::size_t count);

  const float* run(int first, int begin, int end);
  void trace(int first, int steps);
  int link_before(int step, int steps) const;
  int best_closed_lap(Target target, int steps) const;
  double impose_middle(Target target, int steps, States states);
  void copy_lap(int first, int begin, States states) const;
  double squared_error(Target target, int step) const;
  double error(Target target, States states) const;
  double value(int state) const;

  codec::Codebook codebook_;
  int bits_;
  CoderIsa isa_;
  CoderEffort effort_;
  const SearchKernel* kernel_;
  float lowest_, highest_;  // the targets that are searched
  std::int64_t steps_ = 0;
  Aligned<float> values_;  // [65536], in the order of value_index
  Aligned<float> costs_;
  Aligned<std::uint16_t> decisions_;
  std::array<float, codec::kTileWeights> near_{};  // targets of the current tile, brought near the codebook
  std::vector<std::uint16_t> path_;                // states of the current search, by step
  int end_ = 0;                                    // the link after its last step
};

}  // namespace fairway::quantize
