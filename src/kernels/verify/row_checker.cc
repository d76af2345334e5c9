// The problems of a round, their reference results, and the comparison.
#include "kernels/verify/row_checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/verify/error_bound.h"
#include "kernels/verify/expert_problem.h"
#include "kernels/verify/linear_problem.h"

namespace fairway::verify {
namespace {

using codec::Codebook;
using kernels::codebook_bit;
using kernels::KernelRow;
using kernels::MoeSwigluRow;
using kernels::Tile;
using kernels::TrellisLinearRow;
using kernels::WeightKind;

constexpr Codebook kCodebooks[] = {Codebook::k3inst, Codebook::kMcg, Codebook::kMul1};
constexpr int kWidths = FAIRWAY_MAX_BITS - FAIRWAY_MIN_BITS + 1;
constexpr int kTokens[] = {1, 2, 3, 4, 6, 9, 17, 40};  // one for each width
static_assert(std::size(kTokens) == kWidths);

// Consistent rows with the same of these give the same bits.
using Format = std::tuple<kernels::Activations, kernels::WeightCodes, std::uint8_t>;

// Of one problem.
struct Results {
  std::vector<float> expected;
  double typical_norm = 0;                                                  // of a row of these
  std::map<Format, std::pair<const char*, std::vector<float>>> consistent;  // of the first row of each format
};

struct ExpertCase {
  ExpertProblem problem;
  std::uint8_t codebooks;  // 0: dense weights
  int k;                   // most inputs of a matrix
  std::string what;
  Results results;
};

struct LinearCase {
  RandomTrellis weights;
  int m;
  std::vector<float> x;
  std::string what;
  Results results;
};

// 96 to 400, a multiple of 128 one time in four. Bounds are relative to norms of rows, which scatter too much if
// shorter.
int random_size(std::mt19937& random) {
  return random() % 4 == 0 ? 128 * static_cast<int>(1 + random() % 3) : static_cast<int>(96 + random() % 305);
}

std::uint8_t width(int i) {
  return static_cast<std::uint8_t>(FAIRWAY_MIN_BITS + i % kWidths);
}

std::string codebook_names(std::uint8_t codebooks) {
  std::string names;
  for (const Codebook c : kCodebooks) {
    if ((codebooks & codebook_bit(c)) != 0) names += (names.empty() ? "" : "+") + std::string(codec::codebook_name(c));
  }
  return names;
}

// Experts of all widths; the factors 3 and 5 permute the widths of up and down, since 8 has no common divisor with
// them.
ExpertCase trellis_case(std::mt19937& random, std::uint8_t codebooks, int round) {
  const int hidden = random_size(random);
  ExpertCase c{ExpertProblem(random, hidden, 24), codebooks, padded(hidden), {}, {}};
  std::vector<Codebook> books;
  for (const Codebook book : kCodebooks) {
    if ((codebooks & codebook_bit(book)) != 0) books.push_back(book);
  }
  for (int i = 0; i < kWidths; ++i) {
    const int intermediate = random_size(random);
    c.k = std::max(c.k, padded(intermediate));
    const kernels::BitTuple bits{width(i + round), width(3 * i + 1 + round), width(5 * i + 2 + round)};
    const Codebook book = books[static_cast<std::size_t>(i) % books.size()];
    c.problem.add_group(random, intermediate, bits, book, kTokens[i]);
    if (i == round % kWidths) c.problem.add_group(random, intermediate, bits, book, 0);
  }
  c.what = fmt::format("{} experts of hidden size {}, codebook {}", c.problem.groups.size(), hidden,
                       codebook_names(codebooks));
  return c;
}

ExpertCase dense_case(std::mt19937& random, kernels::DenseType type, const char* name) {
  const int hidden = random_size(random);
  ExpertCase c{ExpertProblem(random, hidden, 24), 0, hidden, {}, {}};
  for (const int m : {1, 0, 9, 40}) {
    const int intermediate = random_size(random);
    c.k = std::max(c.k, intermediate);
    c.problem.add_dense_group(random, intermediate, type, m);
  }
  c.what = fmt::format("{} experts of hidden size {}, {}", c.problem.groups.size(), hidden, name);
  return c;
}

LinearCase linear_case(std::mt19937& random, Codebook book, int bits, int m) {
  const int in = random_size(random), out = random_size(random);
  LinearCase c{RandomTrellis(random, in, out, bits, book, random() % 2 == 0), m, random_rows(random, m, in), {}, {}};
  c.what = fmt::format("{} -> {}, {} bits, codebook {}, {} rows of x", in, out, bits, codec::codebook_name(book), c.m);
  return c;
}

template <class Row>
const Row& reference_for(std::span<const Row> rows, WeightKind weights) {
  return *std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
    return row.info.backend == kernels::Backend::kCpuRef && row.info.weights == weights;
  });
}

Tile random_tile(std::mt19937& random) {
  constexpr int kRows[] = {1, 3, 7, 16, 32, 64, 256};
  const int workers = 1 + static_cast<int>(random() % 3 == 0);
  return {kRows[random() % std::size(kRows)], workers == 2 || random() % 2 == 0 ? 64 : 128, workers};
}

std::string tile_text(const Tile& tile) {
  return tile == Tile{} ? "no tile" : fmt::format("tile m{}n{}w{}", tile.m, tile.n, tile.workers);
}

// What is known of a row so far.
struct RowState {
  RowReport report;
  std::mt19937 tiles;  // random ones
  std::set<std::tuple<int, int, int>> seen_tiles;

  RowState(const KernelRow& row, std::uint32_t seed) : tiles(seed) { report.row = &row; }
  bool failed() const { return !report.mismatch.empty(); }
  int threads() const { return 1 + report.calls % 3; }

  std::vector<Tile> next_tiles() {
    std::vector<Tile> list{report.row->tile};
    if (list.front() != Tile{}) list.push_back(random_tile(tiles));
    for (const Tile& tile : list) seen_tiles.insert({tile.m, tile.n, tile.workers});
    report.tiles = static_cast<int>(seen_tiles.size());
    return list;
  }

  // Counts one call and compares its results.
  void compare_call(std::span<const float> actual, std::int64_t columns, Bound bound, const std::string& what,
                    Results& results) {
    const KernelRow& row = *report.row;
    const bool is_reference = row.backend == kernels::Backend::kCpuRef;
    ++report.calls;
    // The error of a row comes from its inputs and the weights: a result that is small by chance is no reason for a
    // smaller one.
    bound.row_floor = results.typical_norm;
    std::string problem =
        is_reference ? compare_exact(results.expected, actual) : compare(results.expected, actual, columns, bound);
    if (!is_reference) {
      report.worst_error =
          std::max(report.worst_error, worst_row_error(results.expected, actual, columns, bound.row_floor));
      report.bound = std::max(report.bound, bound.row_relative);
    }
    if (problem.empty() && row.numerics == kernels::Numerics::kConsistent) {
      const auto [first, inserted] = results.consistent.try_emplace({row.activations, row.codes, row.codebooks}, row.id,
                                                                    std::vector<float>(actual.begin(), actual.end()));
      if (!inserted) {
        problem = compare_exact(first->second.second, actual);
        if (!problem.empty()) problem = fmt::format("not the bits of {}: {}", first->second.first, problem);
      }
    }
    if (!problem.empty()) report.mismatch = fmt::format("{}: {}", what, problem);
  }
};

// Goes through the rounds, one problem in memory at a time.
class Check {
 public:
  Check(const CheckedRows& rows, const CheckOptions& options) : rows_(rows), options_(options) {
    for (const MoeSwigluRow* row : rows.experts) states_.emplace_back(row->info, options.seed);
    for (const TrellisLinearRow* row : rows.linears) states_.emplace_back(row->info, options.seed);
  }

  std::vector<RowReport> run() {
    for_each_round(options_, [&](std::mt19937& random, int round, const std::string& where) {
      where_ = where;
      run_experts(random, round);
      run_linears(random, round);
    });
    std::vector<RowReport> reports;
    for (RowState& state : states_) reports.push_back(std::move(state.report));
    return reports;
  }

 private:
  static constexpr int kCases = 8 + 3 * (kWidths + 1);  // of a round

  void advance() {
    ++done_;
    if (options_.progress)
      options_.progress(static_cast<double>(done_) / (static_cast<double>(options_.rounds) * kCases));
  }

  void run_experts(std::mt19937& random, int round) {
    const std::uint8_t pairs = codebook_bit(Codebook::k3inst) | codebook_bit(Codebook::kMcg);
    for (const std::uint8_t codebooks : {codebook_bit(Codebook::k3inst), codebook_bit(Codebook::kMcg),
                                         codebook_bit(Codebook::kMul1), pairs, kernels::kAllCodebooks}) {
      run_case(trellis_case(random, codebooks, round));
    }
    run_case(dense_case(random, kernels::DenseType::kF32, "f32"));
    run_case(dense_case(random, kernels::DenseType::kF16, "f16"));
    run_case(dense_case(random, kernels::DenseType::kBf16, "bf16"));
  }

  void run_linears(std::mt19937& random, int round) {
    int turn = round;
    for (const Codebook book : kCodebooks) {
      for (int bits = FAIRWAY_MIN_BITS; bits <= FAIRWAY_MAX_BITS; ++bits) {
        run_case(linear_case(random, book, bits, kTokens[turn++ % kWidths]));
      }
      run_case(linear_case(random, book, width(round), 0));
      ++turn;  // another number of rows for the same width of the next codebook
    }
  }

  void run_case(ExpertCase c) {
    advance();
    const bool dense = c.codebooks == 0;
    const MoeSwigluRow& reference =
        reference_for(kernels::moe_swiglu_rows(), dense ? WeightKind::kDense : WeightKind::kTrellis);
    for (std::size_t i = 0; i < rows_.experts.size(); ++i) {
      const MoeSwigluRow& row = *rows_.experts[i];
      RowState& state = states_[i];
      const bool reads = dense == (row.info.weights == WeightKind::kDense) && (c.codebooks & ~row.info.codebooks) == 0;
      if (!reads || state.failed()) continue;
      if (c.results.expected.empty() && !options_.cancelled()) {
        c.results.expected = c.problem.run(reference, 2);
        c.results.typical_norm = typical_row_norm(c.results.expected, c.problem.hidden);
      }
      for (const Tile& tile : state.next_tiles()) {
        if (options_.cancelled()) return;
        if (state.failed()) break;
        const std::string what =
            fmt::format("{}, {}, {}, {} threads", where_, c.what, tile_text(tile), state.threads());
        const std::vector<float> actual = c.problem.run(row, state.threads(), tile);
        state.compare_call(actual, c.problem.hidden, expert_bound(row.info, c.k), what, c.results);
      }
      note_coverage(c, state.report);
    }
  }

  static void note_coverage(const ExpertCase& c, RowReport& report) {
    report.codebooks |= c.codebooks;
    for (const kernels::ExpertGroup& group : c.problem.groups) {
      report.most_tokens = std::max(report.most_tokens, group.m);
      if (c.codebooks == 0 || group.m == 0) continue;
      const kernels::BitTuple bits = group.expert->bits();
      report.widths.insert({bits.gate, bits.up, bits.down});
    }
  }

  void run_case(LinearCase c) {
    advance();
    const TrellisLinearRow& reference = reference_for(kernels::trellis_linear_rows(), WeightKind::kTrellis);
    const std::uint8_t codebook = codebook_bit(c.weights.matrix().codebook);
    bool have_expected = false;
    for (std::size_t i = 0; i < rows_.linears.size(); ++i) {
      const TrellisLinearRow& row = *rows_.linears[i];
      RowState& state = states_[rows_.experts.size() + i];
      if ((codebook & ~row.info.codebooks) != 0 || state.failed()) continue;
      if (!have_expected) {
        c.results.expected = run_linear(reference, c.weights, c.x, c.m, 2, reference.info.tile).y;
        c.results.typical_norm = typical_row_norm(c.results.expected, c.weights.out_exact());
        have_expected = true;
      }
      for (const Tile& tile : state.next_tiles()) {
        if (options_.cancelled()) return;
        if (state.failed()) break;
        const std::string what =
            fmt::format("{}, {}, {}, {} threads", where_, c.what, tile_text(tile), state.threads());
        const LinearResult actual = run_linear(row, c.weights, c.x, c.m, state.threads(), tile);
        state.compare_call(actual.y, c.weights.out_exact(), linear_bound(row.info, c.weights.matrix().in), what,
                           c.results);
        if (!actual.gap_intact && !state.failed()) {
          state.report.mismatch = fmt::format("{}: columns beyond the outputs were written", what);
        }
      }
      state.report.codebooks |= codebook;
      state.report.most_tokens = std::max(state.report.most_tokens, c.m);
      if (c.m > 0) state.report.widths.insert(c.weights.matrix().bits);
    }
  }

  const CheckedRows& rows_;
  const CheckOptions& options_;
  std::vector<RowState> states_;  // of the experts' rows, then of the linears'
  std::string where_;
  int done_ = 0;
};

}  // namespace

void for_each_round(const CheckOptions& options,
                    const std::function<void(std::mt19937& random, int round, const std::string& where)>& check) {
  for (int round = 0; round < options.rounds && !options.cancelled(); ++round) {
    std::seed_seq seed{options.seed, static_cast<std::uint32_t>(round)};
    std::mt19937 random(seed);
    check(random, round, fmt::format("seed {}, round {}", options.seed, round));
  }
}

std::vector<RowReport> check_rows(const CheckedRows& rows, const CheckOptions& options) {
  return Check(rows, options).run();
}

}  // namespace fairway::verify
