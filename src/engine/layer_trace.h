// Hidden states of one chunk after every layer, kept of some of its rows, for comparison with another model's.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace fairway::engine {

class LayerTrace {
 public:
  LayerTrace(int layers, int hidden);

  // Keeps the states x[m, hidden] of the chunk's rows after `layer`; the first layer of a chunk begins a new trace.
  void keep(int layer, const float* x, int m);

  // Adds sums of squares over the kept rows: of x - kept to `difference`, of kept to `reference`.
  void compare(int layer, const float* x, int m, double& difference, double& reference) const;

 private:
  std::size_t kept_rows(int m) const;
  std::size_t row_of(std::size_t kept, int m) const;

  std::size_t layers_, hidden_;
  std::vector<float> states_;  // [layers][kept rows][hidden]
};

}  // namespace fairway::engine
