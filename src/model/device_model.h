// A model in the memory of a CUDA device, with the caches of a fixed number of sequences, and its forward pass there.
// Compiles without a CUDA toolkit; a program built without one has a load() that says so.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codec/trellis.h"
#include "formats/config.h"
#include "kernels/common/registry.h"
#include "kernels/sample/sample.h"
#include "model/path_table.h"

namespace fairway::model {

class Model;

// What a cached key or value is stored as.
enum class DeviceCacheType { kHalf, kFp8 };
const char* device_cache_type_name(DeviceCacheType type);  // "f16", "fp8"

struct DeviceModelOptions {
  int device = 0;
  int sequences = 1;    // 1 to 64: caches, and rows of a decode step
  int context = 0;      // positions of each; 0: the model's max_position_embeddings, or as many as fit in memory
  int pass_rows = 512;  // most rows of one forward pass of a prompt, 1 to 8192
  DeviceCacheType cache = DeviceCacheType::kHalf;
  int kv_b_bits = 16;      // of a weight of kv_b_proj: 16 as in checkpoints, or 8 for half of its memory
  std::string table = {};  // file of measured paths for this GPU (PathTable::load); "": the default paths
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};  // bytes; may throw, which ends the load
};

// A model whose weights are random numbers made in device memory, for speed work at full size without a file.
struct RandomWeights {
  std::vector<kernels::BitTuple> expert_bits;  // that experts take in turn
  int attention_bits = 3, dense_bits = 3, head_bits = 6;
  codec::Codebook codebook = codec::Codebook::kMul1;
  std::uint64_t seed = 1;
};

// Which paths are compared, and how long.
struct PathTuneOptions {
  std::vector<int> rows;  // of a pass, ascending; those above DeviceModel::pass_rows() are left out
  int rounds = 9;         // samples of each path
  int layers = 8;         // of a chain, about
  double budget_seconds = 20;
  // Samples that are taken after the choice and judge it: those of PathEntry::measured, which else are those of the
  // choice.
  int judging_rounds = 0;
  std::function<void(double share)> progress = {};  // may throw, which ends the tuning
};

// Bytes of device memory.
struct DeviceMemoryNeed {
  std::int64_t weights = 0, cache = 0, scratch = 0;
  std::int64_t total() const { return weights + cache + scratch; }
};

// Not thread-safe. Sequences are independent of each other, rows of one pass may belong to one sequence only, and a
// decode step has one row for each of the first sequences.
class DeviceModel {
 public:
  // Copies the weights of a loaded model. Error(kResource) with the numbers before anything is copied if they do not
  // fit; Error(kUnsupported) naming the tensor for what no CUDA kernel runs: dense experts, a trellis-coded router;
  // throws as backend::require_cuda_device() does.
  static DeviceModel load(const Model& model, const DeviceModelOptions& options);
  static DeviceModel random(const formats::ModelConfig& config, const RandomWeights& weights,
                            const DeviceModelOptions& options);

  const formats::ModelConfig& config() const;
  const DeviceMemoryNeed& memory() const;
  int device() const;
  DeviceCacheType cache_type() const;
  int kv_b_bits() const;
  int sequences() const;
  int context() const;    // positions of a sequence
  int pass_rows() const;  // most ids of one forward()

  int length(int sequence) const;
  void truncate(int sequence, int length);  // forget positions >= length
  // Makes the positions [length, new_length) part of the sequence as they lie in memory; for benchmarks of long
  // contexts.
  void pretend_length(int sequence, int new_length);

  // Appends ids to a sequence: 1 .. pass_rows() of them. Error(kUsage) if they do not fit the context or one is out of
  // range. Returns at once; what asks for results waits.
  void forward(std::span<const int> ids, int sequence = 0);

  int forward_rows() const;  // of the last forward(); 0 after start()

  // Of rows [row, row + rows) of the last forward(): logits [rows, vocab_size].
  void logits(int row, int rows, float* logits);

  // Whether tokens can be chosen like that on the device: not with a repetition penalty, and other than greedily only
  // from a vocabulary of at most 163,840.
  bool samples(const kernels::SampleParams& params) const;
  // How choose() and step() choose from now on; greedily before the first call. Sequence i draws as
  // Sampler(params, seeds[i]) would on the host from the same logits. Sequences without a seed take their number.
  // Error(kUsage) for parameters that no Sampler takes, Error(kUnsupported) for those that samples() denies.
  void set_sampling(const kernels::SampleParams& params, std::span<const std::uint64_t> seeds);
  // The next token of the last forward()'s sequence, from its last row. Error(kUsage) if there is none.
  int choose();

  // Generation. start() gives each of the first ids.size() sequences its next input; every step() feeds it, chooses the
  // next token and makes that the next input: nothing but tokens comes to the host. Two steps may be under way before
  // the first one's tokens are read. Error(kUsage) if a sequence is full.
  void start(std::span<const int> ids);
  void step();
  // Tokens that the oldest unread step chose, one for each sequence. Error(kUsage) if all were read.
  std::vector<int> take_step();
  // The steps that have not been read are forgotten, their positions too, but not the random numbers that they drew.
  void stop();

  // Device time, of the step that take_step() read last and of the last forward(), which is waited for. Without the
  // copies of inputs and results.
  double step_microseconds() const;
  double forward_microseconds() const;

  // Kernels, copies and fills of the last step(); 0 if there was none since start().
  std::size_t step_nodes() const;

  void synchronize();

  // Lets every legal path of the expert layers and of the linear layers of this model compete at each number of rows,
  // and returns who won. What is timed is a chain: some of the model's layers as they follow each other in a pass, and
  // the head where its rows are computed at once. Calls of one shape are switched to another path, everything else
  // stays, and the chains of all paths take turns. Up to sequences() rows are a decode step of as many sequences with
  // different tokens, more are a prompt. The default path stays unless another one is faster beyond doubt
  // (judge_paths() in model/path_contest.h), and all defaults of a number of rows stay unless the replaced ones
  // together make the chain faster. When its share of the budget is used up, a call gets fewer rounds, and without one
  // no entry. *complete: all had their rounds. Forgets all sequences. Needs room for the most rows in a sequence.
  PathTable tune_paths(const PathTuneOptions& options, bool* complete);

  // Calls by row id of moe_swiglu and trellis_linear that were queued or recorded so far; a recorded step counts once.
  const std::map<std::string, std::int64_t>& path_calls() const;

  DeviceModel(DeviceModel&&) noexcept;
  DeviceModel& operator=(DeviceModel&&) noexcept;
  ~DeviceModel();

 private:
  struct State;
  explicit DeviceModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace fairway::model
