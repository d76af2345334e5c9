// Clusters of experts from several prices of a bit, each refitted to the budget by turns of two exact steps.
#include "quantize/tuple_cap.h"

#include <limits>
#include <optional>
#include <utility>

#include "quantize/tuple_clusters.h"

namespace fairway::quantize {
namespace {

// Prices of the starts, as multiples of the uncapped optimum's multiplier.
constexpr double kStarts[] = {1.0, 0.5, 2.0, 0.75, 1.4};
// Turns of the two steps; four or five end on models of 3,000 experts, gains of later ones are below kLeastGain.
constexpr int kTurns = 12;
constexpr double kLeastGain = 1e-6;

struct State {
  std::vector<TupleClusters> layers;
  std::vector<int> free_widths;  // by matrix; those of experts stand in `layers`
  double loss = std::numeric_limits<double>::infinity();
  double multiplier = 0;
};

class CappedSearch {
 public:
  CappedSearch(const std::vector<FreeMatrix>& matrices, const std::vector<ExpertLayer>& layers, int cap,
               std::int64_t budget)
      : matrices_(matrices), layers_(layers), cap_(cap), budget_(budget), is_expert_(matrices.size(), false) {
    for (const ExpertLayer& layer : layers) {
      for (const ExpertMatrices& expert : layer.experts) {
        for (const std::size_t m : expert) is_expert_[m] = true;
      }
    }
  }

  // Clusters at one price, then turns until the loss stays.
  State descend(double price) const {
    State state, best;
    for (const ExpertLayer& layer : layers_) state.layers.push_back(cluster_experts(matrices_, layer, cap_, price));
    for (int turn = 0; turn < kTurns; ++turn) {
      choose_widths(state);
      choose_clusters(state);
      const bool improved = state.loss < best.loss * (1 - kLeastGain);
      if (state.loss < best.loss) best = state;
      if (!improved) break;
    }
    return best;
  }

  std::vector<int> widths(const State& state) const {
    std::vector<int> widths = state.free_widths;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const TupleClusters& clusters = state.layers[l];
      for (std::size_t e = 0; e < layers_[l].experts.size(); ++e) {
        const Tuple& tuple = clusters.tuples[static_cast<std::size_t>(clusters.of_expert[e])];
        for (std::size_t p = 0; p < 3; ++p) widths[layers_[l].experts[e][p]] = tuple[p];
      }
    }
    return widths;
  }

 private:
  std::vector<Item> free_items() const {
    std::vector<Item> items;
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      if (!is_expert_[m]) items.push_back(width_choices(matrices_[m]));
    }
    return items;
  }

  // Reads the choices of free_items() back; returns how many there are.
  std::size_t read_free(const Selection& selection, State& state) const {
    state.free_widths.assign(matrices_.size(), 0);
    std::size_t next = 0;
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      if (!is_expert_[m]) state.free_widths[m] = matrices_[m].range.low + selection.chosen[next++];
    }
    state.loss = selection.loss;
    state.multiplier = selection.multiplier;
    return next;
  }

  // All experts of a cluster share a width per projection: their matrices are one item.
  void choose_widths(State& state) const {
    std::vector<Item> items = free_items();
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      std::vector<std::array<FreeMatrix, 3>> sums(state.layers[l].tuples.size());
      for (std::size_t e = 0; e < layers_[l].experts.size(); ++e) {
        const auto cluster = static_cast<std::size_t>(state.layers[l].of_expert[e]);
        for (std::size_t p = 0; p < 3; ++p) add(matrices_[layers_[l].experts[e][p]], sums[cluster][p]);
      }
      for (const auto& cluster : sums) {
        for (const FreeMatrix& sum : cluster) items.push_back(width_choices(sum));  // an empty cluster costs nothing
      }
    }
    const Selection selection = solve_knapsack(items, budget_);
    std::size_t next = read_free(selection, state);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const int low = matrices_[layers_[l].experts.front()[0]].range.low;
      for (Tuple& tuple : state.layers[l].tuples) {
        for (int& width : tuple) width = low + selection.chosen[next++];
      }
    }
  }

  static void add(const FreeMatrix& m, FreeMatrix& sum) {
    sum.weights += m.weights;
    for (std::size_t k = 0; k < sum.loss.size(); ++k) sum.loss[k] += m.loss[k];
    sum.range = m.range;
  }

  // The tuples stand; every expert takes one of its layer's.
  void choose_clusters(State& state) const {
    std::vector<Item> items = free_items();
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      for (const ExpertMatrices& expert : layers_[l].experts) {
        Item item;
        for (const Tuple& tuple : state.layers[l].tuples) {
          Choice choice;
          for (std::size_t p = 0; p < 3; ++p) {
            const FreeMatrix& m = matrices_[expert[p]];
            choice.cost += m.weights * tuple[p];
            choice.loss += m.loss[static_cast<std::size_t>(tuple[p])];
          }
          item.push_back(choice);
        }
        items.push_back(std::move(item));
      }
    }
    const Selection selection = solve_knapsack(items, budget_);
    std::size_t next = read_free(selection, state);
    for (TupleClusters& clusters : state.layers) {
      for (int& cluster : clusters.of_expert) cluster = selection.chosen[next++];
    }
  }

  const std::vector<FreeMatrix>& matrices_;
  const std::vector<ExpertLayer>& layers_;
  int cap_;
  std::int64_t budget_;
  std::vector<bool> is_expert_;
};

}  // namespace

std::vector<int> allocate_capped(const std::vector<FreeMatrix>& matrices, const std::vector<ExpertLayer>& layers,
                                 int cap, std::int64_t budget_bits, double multiplier) {
  const CappedSearch search(matrices, layers, cap, budget_bits);
  State best;
  const auto consider = [&](double price) {
    State state = search.descend(price);
    if (state.loss < best.loss) best = std::move(state);
  };
  for (const double start : kStarts) consider(start * multiplier);
  consider(best.multiplier);  // what a bit costs under the cap
  return search.widths(best);
}

}  // namespace fairway::quantize
