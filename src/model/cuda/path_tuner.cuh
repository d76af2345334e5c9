// Times the paths of the calls of one model.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/event.h"
#include "backend/cuda/graph.h"
#include "backend/cuda/stream.h"
#include "model/cuda/device_pass.cuh"
#include "model/device_model.h"

namespace fairway::model {

class PathTuner {
 public:
  // `pass` lends its scratch. The clock of the budget starts here.
  PathTuner(const DevicePass& pass, backend::CudaStream& stream, const PathTuneOptions& options);

  // Adds an entry for each shape among the calls of a pass of so many rows. passes_left: this one and those to come,
  // which share what is left of the budget.
  void tune(const DeviceCalls& calls, int rows, std::size_t passes_left);

  bool complete() const { return complete_; }
  std::vector<PathEntry> take_entries() { return std::move(entries_); }

 private:
  using Clock = std::chrono::steady_clock;

  // A path of the calls of one shape, recorded.
  struct Candidate {
    const kernels::CudaRow* row;
    std::unique_ptr<backend::CudaGraph> graph;
    int replays = 1;
    std::vector<double> samples;  // microseconds of a call
  };
  // Calls of one shape, and how to queue them all with a path.
  struct Site {
    std::string shape;
    int calls = 0, rows = 0;
    std::vector<const kernels::CudaRow*> paths;  // the default first
    std::function<void(const kernels::CudaRow& path, cudaStream_t stream)> queue;
  };

  std::vector<Site> sites_of(const DeviceCalls& calls) const;
  void tune_site(const Site& site, double seconds);
  double sample(const Candidate& candidate, int calls);
  double seconds_used() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  const DevicePass& pass_;
  backend::CudaStream& stream_;
  const PathTuneOptions& options_;
  backend::EventTimer timer_;
  Clock::time_point begin_;
  std::vector<PathEntry> entries_;
  bool complete_ = true;
  double done_ = 0;
};

}  // namespace fairway::model
