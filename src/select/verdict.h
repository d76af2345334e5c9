// The verdict over candidates that were timed in rounds: who is fastest, beyond doubt.
#pragma once

#include <span>
#include <vector>

namespace fairway::select {

double median(std::vector<double> values);  // 0 without values

// Below, samples[i][r] is the time of candidate i in round r, in any unit; candidate 0 is the default and was in every
// round, the others from the first until they were given up.

// The samples without what slowed or sped up a whole round: each divided by the level of its round, which is the median
// of the candidates that were in every round, and multiplied by the median level.
std::vector<std::vector<double>> level_rounds(std::span<const std::vector<double>> samples);

// `may_win` false: timed, but out of the race. The candidate with the lowest median of levelled samples, if it is below
// the default's by one per cent or more and its ratios to the default in the same rounds are below 1 beyond doubt: the
// interval of their mean, without the most extreme eighth at either end (a stall of the machine is no property of a
// kernel), at 95 % for all candidates together (Bonferroni: the best of many looks good by chance). Else the default,
// 0; so too with fewer than three rounds.
std::size_t fastest_beyond_doubt(std::span<const std::vector<double>> samples, const std::vector<bool>& may_win);

}  // namespace fairway::select
