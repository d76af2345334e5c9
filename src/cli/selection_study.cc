// One cell: a contest of all candidates, three choices among them, and the learner on replayed times.
#include "cli/selection_study.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "cli/signals.h"
#include "select/confidence.h"

namespace fairway::cli {
namespace {

using select::Contest;
using select::MoeCandidate;

constexpr int kSeeds = 20;
constexpr int kSteadyCalls = 200;
constexpr int kFinalRounds = 5, kFinalists = 5;
constexpr int kMostTimes = 3;         // as many rounds as asked for, where a regret is uncertain
constexpr double kPrecision = 0.035;  // of a regret, half of its 95 % interval

int index_of(const std::vector<MoeCandidate>& all, const MoeCandidate& candidate) {
  return static_cast<int>(std::find(all.begin(), all.end(), candidate) - all.begin());
}

std::vector<MoeCandidate> all_candidates(const select::SelectorOptions& options, const select::CallTimer& timer,
                                         const MoeCandidate& tuned) {
  std::vector<MoeCandidate> all = legal_candidates(options.policy, timer.traits(), timer.tokens());
  for (const MoeCandidate& more :
       promising_candidates(options.policy, timer.traits(), timer.tokens(), options.threads, options.slack)) {
    if (index_of(all, more) == static_cast<int>(all.size())) all.push_back(more);
  }
  if (index_of(all, tuned) == static_cast<int>(all.size())) all.push_back(tuned);
  return all;
}

std::vector<SelectionCell::Measured> measured_in(const Contest& contest) {
  std::vector<SelectionCell::Measured> all;
  all.reserve(contest.candidates().size());
  for (int i = 0; i < static_cast<int>(contest.candidates().size()); ++i) {
    all.push_back({contest.candidates()[static_cast<std::size_t>(i)].name(), contest.median(i), contest.samples(i)});
  }
  return all;
}

int oracle_of(const Contest& contest) {
  int oracle = 0;
  for (int i = 1; i < static_cast<int>(contest.candidates().size()); ++i) {
    if (contest.is_in(i) && contest.median(i) < contest.median(oracle)) oracle = i;
  }
  return oracle;
}

// Whether the time of candidate i over that of the oracle is known well enough.
bool is_certain(const Contest& contest, int i) {
  const int oracle = oracle_of(contest);
  if (i == oracle) return true;
  std::vector<double> logs;
  for (std::size_t r = 0; r < contest.samples(oracle).size(); ++r) {
    logs.push_back(std::log(contest.samples(i)[r] / contest.samples(oracle)[r]));
  }
  const auto interval = select::trimmed_confidence_interval(logs, 0.95, 0.125);
  return interval && interval->high - interval->low <= 2 * kPrecision;
}

// The learner, called with times drawn from what was measured.
void replay_online(const Contest& contest, const select::CallTimer& timer, select::SelectorOptions options,
                   SelectionCell& cell) {
  options.learn = true;
  double regret = 0, steady = 0;
  const auto levelled = contest.levelled();
  for (int seed = 1; seed <= kSeeds; ++seed) {
    options.learner.seed = static_cast<std::uint64_t>(seed);
    std::mt19937_64 random(static_cast<std::uint64_t>(seed));
    select::KernelSelector selector(options);
    const auto call = [&] {
      const auto decision = selector.decide(timer.traits(), timer.tokens());
      const auto& samples = levelled[static_cast<std::size_t>(index_of(contest.candidates(), decision.candidate()))];
      const double time = samples[random() % samples.size()];
      selector.record(decision, time);
      return contest.median(index_of(contest.candidates(), decision.candidate()));
    };
    for (int i = 0; i < kOnlineCalls; ++i) call();
    const auto decision = selector.decide(timer.traits(), timer.tokens());
    const int current = decision.site->learner == nullptr ? decision.index : decision.site->learner->current();
    const MoeCandidate& chosen = decision.site->candidates[static_cast<std::size_t>(current)];
    regret += contest.median(index_of(contest.candidates(), chosen)) / cell.oracle_ms - 1;
    double time = 0;
    for (int i = 0; i < kSteadyCalls; ++i) time += call();
    steady += time / kSteadyCalls / cell.heuristic_ms - 1;
  }
  cell.online_regret = regret / kSeeds;
  cell.online_steady = steady / kSeeds;
}

}  // namespace

bool study_cell(select::CallTimer& timer, const select::SelectorOptions& options, const select::TunedTable& table,
                int rounds, SelectionCell& cell) {
  select::KernelSelector by_rules(options), by_table(options, table);
  const MoeCandidate heuristic = by_rules.decide(timer.traits(), timer.tokens()).candidate();
  const MoeCandidate tuned = by_table.decide(timer.traits(), timer.tokens()).candidate();
  Contest contest(all_candidates(options, timer, tuned));
  const auto cancelled = [] { return cancel_requested().load(); };
  if (!contest.warm_up(timer, 1, cancelled)) return false;
  const int kept = index_of(contest.candidates(), tuned);
  const auto certain = [&] { return is_certain(contest, 0) && is_certain(contest, kept); };
  for (int r = 1; r <= rounds || (r <= kMostTimes * rounds && !certain()); ++r) {
    if (!contest.round(timer, cancelled)) return false;
    if (r >= 2) contest.drop_hopeless(r == 2 ? 0.5 : 0.1, kept);
    if (r >= kFinalRounds) contest.keep_best(kFinalists, kept);
  }
  const int oracle = oracle_of(contest);
  const auto median_of = [&](const MoeCandidate& c) { return contest.median(index_of(contest.candidates(), c)); };
  cell.tokens = timer.tokens();
  cell.heuristic = heuristic.name();
  cell.tuned = tuned.name();
  cell.oracle = contest.candidates()[static_cast<std::size_t>(oracle)].name();
  cell.oracle_ms = contest.median(oracle);
  cell.heuristic_ms = median_of(heuristic);
  cell.heuristic_regret = cell.heuristic_ms / cell.oracle_ms - 1;
  cell.tuned_regret = median_of(tuned) / cell.oracle_ms - 1;
  replay_online(contest, timer, options, cell);
  cell.measured = measured_in(contest);
  return true;
}

}  // namespace fairway::cli
