// The path of every expert and linear call of a model, and the calls themselves for whoever tunes them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"
#include "model/path_table.h"

namespace fairway::model {

// What a call is known by in a table: what its time depends on, without its rows.
std::string shape_of(const kernels::cuda::MoeLayer& layer);
std::string shape_of(const kernels::cuda::LinearCall& call);

// The row of a path.
const kernels::CudaRow& row_of(kernels::cuda::MoePath path);
const kernels::CudaRow& row_of(kernels::cuda::LinearPath path);

// And back, of a row of the path's op.
template <class Path>
Path path_of(const kernels::CudaRow& row) {
  return static_cast<Path>(&row - &row_of(static_cast<Path>(0)));
}

// Calls of one pass, in order.
struct DeviceCalls {
  std::vector<std::pair<kernels::cuda::MoeLayer, kernels::cuda::MoeCall>> experts;
  std::vector<kernels::cuda::LinearCall> linears;
};

class DevicePaths {
 public:
  void set_table(PathTable table) {
    table_ = std::move(table);
    known_.clear();
  }

  // For measurements: paths by shape that come before table and rules; null: calls of the shape are left out.
  using Choices = std::map<std::string, const kernels::CudaRow*>;
  void set_choices(Choices choices) {
    choices_ = std::move(choices);
    known_.clear();
  }
  bool leaves_out(const kernels::cuda::MoeLayer& layer) const {
    return !choices_.empty() && leaves_out(shape_of(layer));
  }
  bool leaves_out(const kernels::cuda::LinearCall& call) const {
    return !choices_.empty() && leaves_out(shape_of(call));
  }

  // The table's path if it has one for the shape that is legal for the call, else the default. Between two numbers of
  // rows that were measured the lower one's holds as long as it had to beat the same default. Counts the call.
  kernels::cuda::MoePath choose(const kernels::cuda::MoeLayer& layer, int rows);
  kernels::cuda::LinearPath choose(const kernels::cuda::LinearCall& call);

  const std::map<std::string, std::int64_t>& calls() const { return calls_; }  // by row id

 private:
  // By weights and rows: shapes are text, which is slow to make for every call of a pass.
  using Key = std::pair<const void*, int>;

  bool leaves_out(const std::string& shape) const {
    const auto found = choices_.find(shape);
    return found != choices_.end() && found->second == nullptr;
  }
  template <class Call, class Legal>
  const kernels::CudaRow& row_for(const Call& call, int rows, const kernels::CudaRow& rule, const Legal& legal) const;

  std::optional<PathTable> table_;
  Choices choices_;
  std::map<Key, const kernels::CudaRow*> known_;
  std::map<std::string, std::int64_t> calls_;
};

}  // namespace fairway::model
