// Paths that compete inside a chain of layers: which layers, and who wins. Compiles without a CUDA toolkit.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "model/path_table.h"

namespace fairway::model {

// Layers for a chain, ascending: all if they are not more than `most`, else of each kind its share of `most`, at least
// one, evenly spaced. kinds: of each layer; those with equal text have the same shapes.
std::vector<int> chain_layers(std::span<const std::string> kinds, int most);

// Places in a chain of the layers in which the calls of one kind are measured, ascending. has: by layer of the chain,
// whether it has such calls; nowhere: they are the head's. All of them if half of the layers or more have; else those
// that have and the next two of each, which the calls' neighbours are in and whose weights push theirs out of caches,
// so that the time of the calls is a larger part of what is measured.
std::vector<std::size_t> focused_chain(const std::vector<bool>& has);

// Upper quartile over lower quartile, minus 1; 0 for fewer than four samples. Times of one chain differ by some
// thousandths; more than kQuietSpread says that something else ran on the device.
constexpr double kQuietSpread = 0.03;
double path_spread(std::vector<double> samples);

struct PathVerdict {
  std::size_t winner = 0;
  PathReason reason = PathReason::kFastest;
  std::vector<double> call_us;  // of each contestant, PathTime's microseconds
  bool seems_faster = false;    // another one is faster by enough, but not beyond doubt: more rounds may tell
};

// samples[i]: times of the chain with the path of contestant i, one a round; 0 is the default, which was in every round
// as was `without`, the chain without the calls; the others were from the first round until they were given up. One of
// those that were in every round replaces the default if it has the lowest median, its ratios to the default in the
// same rounds are below one beyond doubt (as select::fastest_beyond_doubt()), and its calls take at least 2 % less than
// the default's. calls: in the chain.
PathVerdict judge_paths(std::span<const std::vector<double>> samples, const std::vector<double>& without, int calls);

}  // namespace fairway::model
