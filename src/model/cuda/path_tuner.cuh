// Times the paths of the calls of one model, inside chains of its layers.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
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
  // `pass` is recorded with other paths than `usual`, which it has again after every call of tune(). The clock of the
  // budget starts here.
  PathTuner(DevicePass& pass, DevicePaths& usual, std::size_t model_layers, backend::CudaStream& stream,
            const PathTuneOptions& options);

  // Adds an entry for each shape among the calls of a chain of so many rows, whose inputs the pass holds. with_head:
  // the chain ends with the head for all rows. passes_left: this one and those to come, which share what is left of the
  // budget.
  void tune(const DevicePassRows& rows, bool with_head, std::size_t passes_left);

  bool complete() const { return complete_; }
  PathTable take_table() { return std::move(table_); }

 private:
  using Clock = std::chrono::steady_clock;
  using Choices = DevicePaths::Choices;
  using Graph = std::shared_ptr<const backend::CudaGraph>;

  // A chain that takes part in rounds.
  struct Contestant {
    Contestant(const kernels::CudaRow* path, Graph chain, int device)
        : row(path), graph(std::move(chain)), timer(device) {}
    const kernels::CudaRow* row;
    Graph graph;
    backend::EventTimer timer;
    bool in = true;
    std::vector<double> samples;  // microseconds of a chain
  };
  // Calls of one shape.
  struct Site {
    std::string shape;
    int calls = 0;
    std::vector<const kernels::CudaRow*> paths;  // the default first
    std::vector<int> layers;                     // of the chain it is measured in, and whether that has the head
    bool with_head = false;
    std::function<void(cudaStream_t stream)> queue;  // all calls, with the default
  };

  Graph record(const Choices& choices, DeviceCalls* calls = nullptr);
  std::vector<std::string> shapes_of_layer(int layer);
  void choose_layers();
  std::vector<Site> sites_of(const DeviceCalls& calls) const;
  void choose_chains(std::vector<Site>& sites);
  double warm_up(Contestant& contestant);
  void round(std::deque<Contestant>& contestants, std::size_t number);
  bool rounds(std::deque<Contestant>& contestants, int count, double end);
  void quiet_rounds(std::deque<Contestant>& contestants, int count, double end);
  void set_replays(Contestant& contestant);
  void enter(std::deque<Contestant>& contestants, const Site& site, const Choices& choices, double end);
  void tune_site(const Site& site, double seconds, Choices& choices);
  void check_choices(const Graph& rules, const Graph& chain, std::size_t first_entry);
  double seconds_used() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  DevicePass& pass_;
  DevicePaths& usual_;
  std::size_t model_layers_;
  backend::CudaStream& stream_;
  const PathTuneOptions& options_;
  Clock::time_point begin_;
  std::vector<int> layers_;  // of a chain
  DevicePassRows rows_{};
  bool with_head_ = false;
  int replays_ = 1;  // of a sample
  PathTable table_;
  bool complete_ = true;
  double done_ = 0;
};

}  // namespace fairway::model
