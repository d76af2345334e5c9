// Lagrangian relaxation, then exact use of the rest of the budget.
#include "quantize/knapsack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>

#include "fairway/error.h"

namespace fairway::quantize {
namespace {

// Bounds of the table: cells over all items, and offsets of cost to either side, in units of the common divisor. Sized
// so that one call stays near 20 ms; 47 layers of 64 experts need a few hundred items and a few hundred offsets.
constexpr std::int64_t kTableCells = 4'000'000;
constexpr std::int64_t kTableReach = 4096;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A step along the lower convex hull of one item.
struct Segment {
  double rate = 0;  // loss saved per unit of cost
  std::size_t item = 0;
  int to = 0;  // choice
  std::int64_t cost = 0;
};

// Choices on the lower left hull in ascending order of cost; rates between neighbours descend strictly.
std::vector<int> lower_hull(const Item& item) {
  std::vector<int> order(item.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int c) -> const Choice& { return item[static_cast<std::size_t>(c)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return at(a).cost != at(b).cost ? at(a).cost < at(b).cost : at(a).loss < at(b).loss;
  });
  const auto rate = [&](int a, int b) {
    return (at(a).loss - at(b).loss) / static_cast<double>(at(b).cost - at(a).cost);
  };
  std::vector<int> hull;
  for (const int c : order) {
    if (!hull.empty() && at(c).loss >= at(hull.back()).loss) continue;  // costs no less and saves nothing
    while (hull.size() > 1 && rate(hull.back(), c) >= rate(hull[hull.size() - 2], hull.back())) hull.pop_back();
    hull.push_back(c);
  }
  return hull;
}

class Solver {
 public:
  Solver(const std::vector<Item>& items, std::int64_t budget) : items_(items), chosen_(items.size()) {
    prepare_segments();
    if (cost_ > budget) {
      throw Error(ErrorKind::kUsage, fmt::format("a budget of {}: the cheapest choices cost {}", budget, cost_));
    }
    // No cost strays from the cheapest selection by anything but multiples of the unit; a tighter budget, tighter
    // bound.
    slack_ = (budget - cost_) / unit_ * unit_;
  }

  Selection solve() {
    const bool binds = take_segments();
    if (binds) {
      const std::vector<int> base = chosen_;
      const std::int64_t base_slack = slack_;
      fill();
      std::vector<int> greedy = chosen_;
      const double greedy_loss = loss();
      chosen_ = base;
      slack_ = base_slack;
      if (greedy_loss > bound_) improve_by_table(greedy_loss - bound_);
      if (greedy_loss <= loss()) chosen_ = std::move(greedy);
    }
    return result();
  }

 private:
  const Choice& now(std::size_t i) const { return items_[i][static_cast<std::size_t>(chosen_[i])]; }

  double loss() const {
    double sum = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) sum += now(i).loss;
    return sum;
  }

  void prepare_segments() {
    std::int64_t divisor = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      const std::vector<int> hull = lower_hull(item);
      chosen_[i] = hull.front();
      cost_ += now(i).cost;
      for (std::size_t h = 1; h < hull.size(); ++h) {
        const Choice& from = item[static_cast<std::size_t>(hull[h - 1])];
        const Choice& to = item[static_cast<std::size_t>(hull[h])];
        const std::int64_t cost = to.cost - from.cost;
        segments_.push_back({(from.loss - to.loss) / static_cast<double>(cost), i, hull[h], cost});
      }
      for (const Choice& c : item) divisor = std::gcd(divisor, c.cost - now(i).cost);
    }
    unit_ = std::max<std::int64_t>(divisor, 1);
    // Stable: equal rates stay in the order of the items, and within an item rates descend.
    std::stable_sort(segments_.begin(), segments_.end(),
                     [](const Segment& a, const Segment& b) { return a.rate > b.rate; });
  }

  // Whether a segment remained. The selection is then optimal for the Lagrangian at the rate of the first that did not
  // fit, and the dual value there is what an arbitrarily divisible segment would reach.
  bool take_segments() {
    for (const Segment& s : segments_) {
      if (s.cost > slack_) {
        multiplier_ = s.rate;
        bound_ = loss() - s.rate * static_cast<double>(slack_);
        return true;
      }
      chosen_[s.item] = s.to;
      slack_ -= s.cost;
    }
    bound_ = loss();
    return false;
  }

  // The best single change of one item that the rest of the budget pays for, until there is none.
  void fill() {
    while (slack_ > 0) {
      double best = 0;
      std::size_t item = 0;
      int to = -1;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        for (std::size_t c = 0; c < items_[i].size(); ++c) {
          const Choice& choice = items_[i][c];
          const double gain = now(i).loss - choice.loss;
          if (gain > best && choice.cost - now(i).cost <= slack_) {
            best = gain;
            item = i;
            to = static_cast<int>(c);
          }
        }
      }
      if (to < 0) return;
      slack_ -= items_[item][static_cast<std::size_t>(to)].cost - now(item).cost;
      chosen_[item] = to;
    }
  }

  // One change of the table: `offset` in units, `regret` is what the Lagrangian at the multiplier loses by it.
  struct Change {
    int to = 0;
    std::int64_t offset = 0;
    double regret = 0;
  };
  struct CoreItem {
    std::size_t item = 0;
    double least_regret = 0;
    std::vector<Change> changes;
  };

  // Everything whose regret alone does not already exceed the gap, nearest to the margin first.
  std::vector<CoreItem> core(double gap) const {
    std::vector<CoreItem> core;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      CoreItem one{i, kInfinity, {}};
      for (std::size_t c = 0; c < items_[i].size(); ++c) {
        if (static_cast<int>(c) == chosen_[i]) continue;
        const std::int64_t cost = items_[i][c].cost - now(i).cost;
        const double change = items_[i][c].loss - now(i).loss;
        const double regret = std::max(0.0, change + multiplier_ * static_cast<double>(cost));
        if (regret > gap || std::abs(cost / unit_) > kTableReach) continue;
        one.changes.push_back({static_cast<int>(c), cost / unit_, regret});
        one.least_regret = std::min(one.least_regret, regret);
      }
      if (!one.changes.empty()) core.push_back(std::move(one));
    }
    std::stable_sort(core.begin(), core.end(),
                     [](const CoreItem& a, const CoreItem& b) { return a.least_regret < b.least_regret; });
    return core;
  }

  // How far total offsets may stray: as far as the core can go, if that is affordable, else four of its largest
  // changes, and in any case the whole rest of the budget if the table reaches so far.
  std::int64_t table_reach(const std::vector<CoreItem>& core) const {
    std::int64_t largest = 1, sum = 0;
    for (const CoreItem& one : core) {
      std::int64_t own = 0;
      for (const Change& change : one.changes) own = std::max(own, std::abs(change.offset));
      largest = std::max(largest, own);
      sum += own;
    }
    const std::int64_t affordable = kTableCells / (2 * std::max<std::int64_t>(std::ssize(core), 1));
    const std::int64_t reach = sum < affordable ? sum : 4 * largest;
    return std::min(kTableReach, std::max({reach, slack_ / unit_, std::int64_t{1}}));
  }

  // From the Lagrangian optimum: least sum of regrets for every total offset, over the core. `gap`: what a better
  // selection may lose at most.
  void improve_by_table(double gap) {
    std::vector<CoreItem> items = core(gap);
    const std::int64_t reach = table_reach(items);
    const auto width = static_cast<std::size_t>(2 * reach + 1);
    items.resize(std::min(items.size(), static_cast<std::size_t>(kTableCells) / width));
    std::vector<double> least(width, kInfinity), next;
    std::vector<std::uint16_t> step(items.size() * width, 0);  // 0: unchanged, else index of the change + 1
    least[static_cast<std::size_t>(reach)] = 0;
    for (std::size_t k = 0; k < items.size(); ++k) {
      next = least;
      for (std::size_t c = 0; c < items[k].changes.size(); ++c) {
        const Change& change = items[k].changes[c];
        const std::int64_t first = std::max<std::int64_t>(0, change.offset);
        const std::int64_t last = std::min<std::int64_t>(2 * reach, 2 * reach + change.offset);
        for (std::int64_t o = first; o <= last; ++o) {
          const double sum = least[static_cast<std::size_t>(o - change.offset)] + change.regret;
          if (sum <= gap && sum < next[static_cast<std::size_t>(o)]) {
            next[static_cast<std::size_t>(o)] = sum;
            step[k * width + static_cast<std::size_t>(o)] = static_cast<std::uint16_t>(c + 1);
          }
        }
      }
      least.swap(next);
    }
    apply(items, step, reach, best_offset(least, reach));
    fill();
  }

  // The offset within the budget whose loss is least; 0 always is one.
  std::int64_t best_offset(const std::vector<double>& least, std::int64_t reach) const {
    std::int64_t best = 0;
    double best_change = kInfinity;
    for (std::int64_t o = std::min(reach, slack_ / unit_); o >= -reach; --o) {
      const double change = least[static_cast<std::size_t>(o + reach)] -
                            multiplier_ * static_cast<double>(o) * static_cast<double>(unit_);
      if (change < best_change) {
        best_change = change;
        best = o;
      }
    }
    return best;
  }

  void apply(const std::vector<CoreItem>& items, const std::vector<std::uint16_t>& step, std::int64_t reach,
             std::int64_t offset) {
    slack_ -= offset * unit_;
    for (std::size_t k = items.size(); k-- > 0;) {
      const std::size_t width = static_cast<std::size_t>(2 * reach + 1);
      const std::uint16_t taken = step[k * width + static_cast<std::size_t>(offset + reach)];
      if (taken == 0) continue;
      const Change& change = items[k].changes[taken - 1];
      chosen_[items[k].item] = change.to;
      offset -= change.offset;
    }
  }

  Selection result() const {
    Selection s;
    s.chosen = chosen_;
    for (std::size_t i = 0; i < items_.size(); ++i) s.cost += now(i).cost;
    s.loss = loss();
    s.bound = std::min(bound_, s.loss);  // rounding of sums aside, the bound is never above
    s.multiplier = multiplier_;
    return s;
  }

  const std::vector<Item>& items_;
  std::vector<int> chosen_;
  std::vector<Segment> segments_;
  std::int64_t cost_ = 0;  // of the cheapest selection
  std::int64_t unit_ = 1, slack_ = 0;
  double multiplier_ = 0, bound_ = 0;
};

}  // namespace

Selection solve_knapsack(const std::vector<Item>& items, std::int64_t budget) {
  return Solver(items, budget).solve();
}

}  // namespace fairway::quantize
