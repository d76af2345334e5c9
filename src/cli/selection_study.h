// How much time selection loses against the best kernel there is, for one kind of call: what `fairway bench selection`
// measures cell by cell.
#pragma once

#include <string>
#include <vector>

#include "select/contest.h"
#include "select/kernel_selector.h"

namespace fairway::cli {

// One geometry, bit mix and number of tokens. Regrets are fractions of the oracle's time: (chosen - oracle) / oracle,
// by medians of samples whose rounds are levelled (select/verdict.h); the oracle is the candidate with the lowest.
struct SelectionCell {
  std::string geometry, mix;
  int tokens = 0;
  std::string heuristic, tuned, oracle;  // candidates by name
  double oracle_ms = 0, heuristic_ms = 0;
  double heuristic_regret = 0, tuned_regret = 0;
  double online_regret = 0;  // after kOnlineCalls calls from an empty history, mean over seeds
  double online_steady = 0;  // time of later calls, exploration included, to the default's, minus 1; mean over seeds
  struct Measured {
    std::string kernel;
    double median_ms;
    std::vector<double> samples_ms;
  };
  std::vector<Measured> measured;  // every candidate
};

constexpr int kOnlineCalls = 20;

// Times every legal row, and the tiles worth trying, in rounds. Candidates 1.5 times as slow as the best leave after
// two rounds, those 10 % slower after three, all but the best five after five; the default and the tuned one stay.
// Rounds go on, up to three times as many, until the regrets of both are known to 3.5 per cent. The online learner then
// runs on draws from these very samples, with rounds levelled: its decisions are its own, the times are this run's.
// False if cancelled.
bool study_cell(select::CallTimer& timer, const select::SelectorOptions& options, const select::TunedTable& table,
                int rounds, SelectionCell& cell);

}  // namespace fairway::cli
