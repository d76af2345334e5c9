// A k-median problem: experts are clients, tuples of widths are sites.
#include "quantize/tuple_clusters.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace fairway::quantize {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Exchanges that gain less than this share of the total are rounding, and could go round in circles.
constexpr double kLeastGain = 1e-12;
// Each pass tries every exchange once; three to five passes end the search on layers of 64 experts.
constexpr int kPasses = 20;

class Clustering {
 public:
  Clustering(const std::vector<FreeMatrix>& matrices, const ExpertLayer& layer, double price)
      : experts_(layer.experts.size()) {
    const WidthRange range = matrices[layer.experts.front()[0]].range;
    for (int g = range.low; g <= range.high; ++g) {
      for (int u = range.low; u <= range.high; ++u) {
        for (int d = range.low; d <= range.high; ++d) sites_.push_back({g, u, d});
      }
    }
    costs_.reserve(sites_.size() * experts_);
    for (const Tuple& site : sites_) {
      for (const ExpertMatrices& expert : layer.experts) {
        double cost = 0;
        for (std::size_t p = 0; p < 3; ++p) {
          const FreeMatrix& m = matrices[expert[p]];
          cost += m.loss[static_cast<std::size_t>(site[p])] + price * static_cast<double>(m.weights * site[p]);
        }
        costs_.push_back(cost);
      }
    }
  }

  // Opens the site that lowers the total most, `cap` times or until none lowers it.
  void open(int cap) {
    std::vector<double> best(experts_, kInfinity);
    while (std::ssize(open_) < cap) {
      const auto [site, total] = best_site(best);
      if (!(total < total_ * (1 - kLeastGain)) && !open_.empty()) return;
      open_.push_back(site);
      total_ = total;
      best = best_without(open_.size());
    }
  }

  // Replaces one open site by another as long as that lowers the total.
  void exchange() {
    for (int pass = 0; pass < kPasses; ++pass) {
      bool improved = false;
      for (std::size_t slot = 0; slot < open_.size(); ++slot) {
        const auto [site, total] = best_site(best_without(slot));
        if (!(total < total_ * (1 - kLeastGain))) continue;
        open_[slot] = site;
        total_ = total;
        improved = true;
      }
      if (!improved) return;
    }
  }

  TupleClusters result() const {
    TupleClusters clusters;
    for (const std::size_t site : open_) clusters.tuples.push_back(sites_[site]);
    for (std::size_t e = 0; e < experts_; ++e) {
      std::size_t nearest = 0;
      for (std::size_t slot = 1; slot < open_.size(); ++slot) {
        if (cost(open_[slot], e) < cost(open_[nearest], e)) nearest = slot;
      }
      clusters.of_expert.push_back(static_cast<int>(nearest));
    }
    return clusters;
  }

 private:
  double cost(std::size_t site, std::size_t expert) const { return costs_[site * experts_ + expert]; }

  // Each expert's cost at the nearest open site, `closed` of them (an index into open_) aside.
  std::vector<double> best_without(std::size_t closed) const {
    std::vector<double> best(experts_, kInfinity);
    for (std::size_t slot = 0; slot < open_.size(); ++slot) {
      if (slot == closed) continue;
      for (std::size_t e = 0; e < experts_; ++e) best[e] = std::min(best[e], cost(open_[slot], e));
    }
    return best;
  }

  struct Site {
    std::size_t site;
    double total;
  };

  // The site whose opening, where experts otherwise pay `best`, gives the least total; the first of equals.
  Site best_site(const std::vector<double>& best) const {
    Site found{0, kInfinity};
    for (std::size_t site = 0; site < sites_.size(); ++site) {
      double total = 0;
      for (std::size_t e = 0; e < experts_; ++e) total += std::min(best[e], cost(site, e));
      if (total < found.total) found = {site, total};
    }
    return found;
  }

  std::size_t experts_;
  std::vector<Tuple> sites_;
  std::vector<double> costs_;  // [sites][experts]
  std::vector<std::size_t> open_;
  double total_ = kInfinity;
};

}  // namespace

TupleClusters cluster_experts(const std::vector<FreeMatrix>& matrices, const ExpertLayer& layer, int cap,
                              double price) {
  Clustering clustering(matrices, layer, price);
  clustering.open(cap);
  clustering.exchange();
  return clustering.result();
}

}  // namespace fairway::quantize
