// Loading, sequences, and decode steps as recorded graphs.
#include "model/device_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <numeric>
#include <utility>

#include "backend/cuda/device.h"
#include "backend/cuda/device_scope.cuh"
#include "backend/cuda/graph.h"
#include "backend/cuda/native.cuh"
#include "backend/cuda/pinned_buffer.h"
#include "codec/packing.h"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/cuda/sample_cuda.cuh"
#include "model/cuda/device_pass.cuh"
#include "model/cuda/load_weights.cuh"
#include "model/cuda/path_tuner.cuh"
#include "model/model.h"
#include "model/random_model.h"
#include "model/weights.h"

namespace fairway::model {
namespace {

using formats::AttentionKind;
using formats::ModelConfig;

constexpr int kMaxSequences = 64, kMaxPassRows = 8192;
constexpr int kHeadRows = 64;   // rows whose logits are computed at once
constexpr int kStepsAhead = 2;  // unread steps that may be queued
static_assert(kStepsAhead <= DevicePass::kKeptSteps, "a step would overwrite tokens on their way to the host");
constexpr int kShortContextBuckets[] = {128, 256}, kSecondContextBucket = 1024;
constexpr std::int64_t kSpareBytes = std::int64_t{512} << 20;  // left free for the driver and other programs

void check_options(const DeviceModelOptions& o) {
  if (o.sequences < 1 || o.sequences > kMaxSequences) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} sequences on the device, expected 1 to {}", o.sequences, kMaxSequences));
  }
  if (o.pass_rows < 1 || o.pass_rows > kMaxPassRows) {
    throw Error(ErrorKind::kUsage, fmt::format("{} rows of a pass, expected 1 to {}", o.pass_rows, kMaxPassRows));
  }
  if (o.context < 0) throw Error(ErrorKind::kUsage, fmt::format("a context of {} positions", o.context));
  if (o.kv_b_bits != 8 && o.kv_b_bits != 16) {
    throw Error(ErrorKind::kUsage, fmt::format("kv_b_proj in {} bits, expected 8 or 16", o.kv_b_bits));
  }
}

// What the attention kernels ask of a model's sizes.
void check_geometry(const ModelConfig& c) {
  const auto need = [&](bool good, const char* key, int value, const char* what) {
    if (good) return;
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} is {}; on a CUDA device it must be {}. Run this model on the CPU", key, value, what));
  };
  if (c.attention == AttentionKind::kMla) {
    need(c.kv_lora_rank % 64 == 0 && c.kv_lora_rank <= 512, "kv_lora_rank", c.kv_lora_rank,
         "a multiple of 64 up to 512");
    need(c.qk_rope_head_dim % 16 == 0 && c.qk_rope_head_dim <= 64, "qk_rope_head_dim", c.qk_rope_head_dim,
         "a multiple of 16 up to 64");
    need(c.qk_nope_head_dim % 16 == 0 && c.qk_nope_head_dim <= 256, "qk_nope_head_dim", c.qk_nope_head_dim,
         "a multiple of 16 up to 256");
    need(c.v_head_dim % 16 == 0, "v_head_dim", c.v_head_dim, "a multiple of 16");
  } else {
    need(c.head_dim % 16 == 0 && c.head_dim <= 512, "head_dim", c.head_dim, "a multiple of 16 up to 512");
    need(c.num_attention_heads * c.head_dim % 128 == 0, "num_attention_heads * head_dim",
         c.num_attention_heads * c.head_dim, "a multiple of 128");
  }
}

std::string gigabytes(std::int64_t bytes) {
  return fmt::format("{:.2f} GB", static_cast<double>(bytes) * 1e-9);
}

[[noreturn]] void throw_too_large(const DeviceMemoryNeed& need, std::int64_t free_bytes, int sequences, int context) {
  throw Error(
      ErrorKind::kResource,
      fmt::format("the model needs {} of device memory: weights {}, caches of {} x {} positions {}, scratch {}; "
                  "{} are free. Take a model of fewer bits, a shorter context or fewer sequences",
                  gigabytes(need.total()), gigabytes(need.weights), sequences, context, gigabytes(need.cache),
                  gigabytes(need.scratch), gigabytes(free_bytes)));
}

// The smallest that is at least `positions` of kShortContextBuckets and the powers of two from kSecondContextBucket on;
// at most `context`.
int context_bucket(int positions, int context) {
  for (const int bucket : kShortContextBuckets) {
    if (positions <= bucket) return std::min(bucket, context);
  }
  int bucket = kSecondContextBucket;
  while (bucket < positions) bucket *= 2;
  return std::min(bucket, context);
}

}  // namespace

const char* device_cache_type_name(DeviceCacheType type) {
  return type == DeviceCacheType::kHalf ? "f16" : "fp8";
}

struct DeviceModel::State {
  // A decode step for one number of sequences and one bound of their lengths.
  struct StepKey {
    int rows, max_context;
    auto operator<=>(const StepKey&) const = default;
  };
  // A queued step whose tokens have not been read.
  struct Pending {
    std::size_t slot;
    int rows;
  };
  struct StepSlot {
    explicit StepSlot(int device)
        : chosen(device, sizeof(int) * kMaxSequences * DevicePass::kKeptSteps), done(device), timer(device) {}
    backend::PinnedBuffer chosen;  // as DevicePass::chosen() has them
    std::vector<int> positions;    // of the sequences after the step
    backend::CudaEvent done;
    backend::EventTimer timer;
  };

  State(const ModelConfig& model_config, const DeviceModelOptions& model_options)
      : config(model_config),
        options(model_options),
        stream(options.device),
        copies(options.device),
        forward_timer(options.device) {
    for (int i = 0; i < kStepsAhead; ++i) slots.push_back(std::make_unique<StepSlot>(options.device));
    inputs = std::make_unique<backend::PinnedBuffer>(
        options.device, 3 * sizeof(int) * static_cast<std::size_t>(std::max(options.pass_rows, kMaxSequences)));
  }

  void build(const HostModel& host);
  DeviceMemoryNeed measure(const DeviceWeights& shapes, std::int64_t weight_bytes, int context) const;
  DevicePassLimits limits(int context) const;
  int fitting_context(const std::function<DeviceMemoryNeed(int)>& need_at) const;
  void fill_rope();
  void check_room(int sequence, std::size_t tokens) const;
  void upload_rows(std::span<const int> ids, std::span<const int> sequence, std::span<const int> position);
  const backend::CudaGraph& step_graph(int batch);
  void choose_tokens(int rows, int* position, unsigned long long* states) const;
  int longest(int rows) const { return *std::max_element(lengths.begin(), lengths.begin() + rows); }

  ModelConfig config;
  DeviceModelOptions options;
  DeviceMemoryNeed need;
  int context = 0;
  std::unique_ptr<backend::DeviceArena> arena;
  DeviceWeights weights;
  DevicePaths paths;
  std::unique_ptr<DevicePass> pass;
  backend::CudaStream stream;
  backend::CudaStream copies;                     // of chosen tokens to the host, while the next step runs
  std::unique_ptr<backend::PinnedBuffer> inputs;  // ids, sequences and positions of a pass
  std::vector<int> lengths;                       // of the sequences, queued steps included
  int forward_rows = 0, forward_sequence = 0;
  int batch = 0;                 // of the present start()
  kernels::SampleParams sample;  // steps are recorded with them
  const backend::CudaGraph* last_step = nullptr;
  std::map<StepKey, std::unique_ptr<backend::CudaGraph>> graphs;
  std::vector<std::unique_ptr<StepSlot>> slots;
  std::size_t next_slot = 0, last_taken = 0;
  std::deque<Pending> pending;
  backend::EventTimer forward_timer;
};

DevicePassLimits DeviceModel::State::limits(int positions) const {
  return {.rows = std::max(options.pass_rows, options.sequences),
          .head_rows = kHeadRows,
          .sequences = options.sequences,
          .context = positions,
          .cache = options.cache == DeviceCacheType::kHalf ? kernels::cuda::CacheType::kHalf
                                                           : kernels::cuda::CacheType::kE4m3};
}

// shapes: of weights that were added up and not copied.
DeviceMemoryNeed DeviceModel::State::measure(const DeviceWeights& shapes, std::int64_t weight_bytes,
                                             int positions) const {
  const DevicePass scratch(config, shapes, limits(positions), nullptr);
  return {weight_bytes, scratch.cache_bytes(), scratch.scratch_bytes()};
}

// The options' context, or the most positions that fit.
int DeviceModel::State::fitting_context(const std::function<DeviceMemoryNeed(int)>& need_at) const {
  const int longest_context = config.max_position_embeddings;
  const std::int64_t room = backend::cuda_memory(options.device).free_bytes - kSpareBytes;
  if (options.context > 0) {
    const int positions = std::min(options.context, longest_context);
    const DeviceMemoryNeed all = need_at(positions);
    if (all.total() > room) throw_too_large(all, room, options.sequences, positions);
    return positions;
  }
  const DeviceMemoryNeed all = need_at(longest_context);
  if (all.total() <= room) return longest_context;
  // Both the caches and what grows with the context are linear in it.
  const int least = std::min(kSecondContextBucket, longest_context);
  const DeviceMemoryNeed small = need_at(least);
  if (small.total() > room || least == longest_context) throw_too_large(small, room, options.sequences, least);
  const double slope = static_cast<double>(all.total() - small.total()) / (longest_context - least);
  const int more = static_cast<int>(static_cast<double>(room - small.total()) / slope);
  return std::min(longest_context, (least + std::max(0, more - 64)) / 64 * 64);
}

void DeviceModel::State::build(const HostModel& host) {
  const backend::DeviceScope scope(options.device);
  check_options(options);
  check_geometry(config);
  if (!options.table.empty()) paths.set_table(PathTable::load(options.table, options.device));
  WeightStore sizes;
  const auto kv_b = options.kv_b_bits == 8 ? kernels::cuda::UpWeight::kByte : kernels::cuda::UpWeight::kHalf;
  const DeviceWeights shapes = load_weights(host, kv_b, sizes);
  const auto need_at = [&](int positions) { return measure(shapes, sizes.bytes(), positions); };
  context = fitting_context(need_at);
  need = need_at(context);
  arena = std::make_unique<backend::DeviceArena>(options.device, static_cast<std::size_t>(need.total()));
  const auto progress = [&](std::int64_t done) {
    if (options.progress) options.progress(done, need.weights);
  };
  WeightStore store(*arena, progress);
  weights = load_weights(host, kv_b, store);
  pass = std::make_unique<DevicePass>(config, weights, limits(context), arena.get());
  pass->set_paths(&paths);
  pass->clear(stream);
  lengths.assign(static_cast<std::size_t>(options.sequences), 0);
  fill_rope();  // while the last weights arrive
  store.finish();
}

void DeviceModel::State::fill_rope() {
  const int half = pass->rope_half();
  kernels::RopeTable table(2 * half, config.rope_theta);
  table.grow(context);
  std::vector<float> rows(static_cast<std::size_t>(context) * static_cast<std::size_t>(half));
  const std::size_t bytes = rows.size() * sizeof(float);
  for (const bool sine : {false, true}) {
    for (int p = 0; p < context; ++p) {
      const float* row = sine ? table.sin_row(p) : table.cos_row(p);
      std::copy(row, row + half, rows.begin() + static_cast<std::ptrdiff_t>(p) * half);
    }
    stream.copy_to_device(sine ? pass->sin_table() : pass->cos_table(), rows.data(), bytes);
    stream.wait();
  }
}

void DeviceModel::State::check_room(int sequence, std::size_t tokens) const {
  if (sequence < 0 || sequence >= options.sequences) {
    throw Error(ErrorKind::kUsage, fmt::format("sequence {} of {}", sequence, options.sequences));
  }
  const int length = lengths[static_cast<std::size_t>(sequence)];
  if (tokens > static_cast<std::size_t>(context - length)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} new tokens after {} cached ones exceed the {} positions of a sequence "
                            "on the device",
                            tokens, length, context));
  }
}

// The pinned buffer may still be read by the copies of an earlier pass.
void DeviceModel::State::upload_rows(std::span<const int> ids, std::span<const int> sequence,
                                     std::span<const int> position) {
  stream.wait();
  auto* to = reinterpret_cast<int*>(inputs->data());
  for (const auto& [from, target] :
       {std::pair(ids, pass->ids()), std::pair(sequence, pass->sequence()), std::pair(position, pass->position())}) {
    std::copy(from.begin(), from.end(), to);
    stream.copy_to_device(target, to, from.size_bytes());
    to += from.size();
  }
}

const backend::CudaGraph& DeviceModel::State::step_graph(int rows) {
  const StepKey key{rows, context_bucket(longest(rows) + 1, context)};
  std::unique_ptr<backend::CudaGraph>& graph = graphs[key];
  if (graph == nullptr) {
    const auto record = [&] {
      const cudaStream_t native = backend::native(stream);
      pass->layers({rows, false, key.max_context}, native);
      pass->head(0, rows, native);
      choose_tokens(rows, pass->position(), pass->random_states());
    };
    graph = std::make_unique<backend::CudaGraph>(stream, record);
  }
  return *graph;
}

// From the first rows of logits to the first ids of the pass. Positions, if given, move on; states are of these rows.
void DeviceModel::State::choose_tokens(int rows, int* position, unsigned long long* states) const {
  const cudaStream_t native = backend::native(stream);
  const int vocab = config.vocab_size;
  int* const chosen = position == nullptr ? nullptr : pass->chosen();
  const int kept = DevicePass::kKeptSteps;
  if (sample.temperature == 0) {
    kernels::cuda::greedy({pass->logits(), vocab, vocab, rows, pass->ids(), position, chosen, kept}, native);
  } else {
    kernels::cuda::sample_top({pass->logits(), vocab, vocab, rows, sample.temperature, sample.top_k, sample.top_p,
                               sample.min_p, states, pass->ids(), position, chosen, kept},
                              native);
  }
}

DeviceModel::DeviceModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
DeviceModel::DeviceModel(DeviceModel&&) noexcept = default;
DeviceModel& DeviceModel::operator=(DeviceModel&&) noexcept = default;
DeviceModel::~DeviceModel() {
  // Nothing may use the arena once it is gone.
  if (state_ != nullptr) (void)cudaStreamSynchronize(backend::native(state_->stream));
}

DeviceModel DeviceModel::load(const Model& model, const DeviceModelOptions& options) {
  kernels::cuda::require_gpu(options.device);
  auto state = std::make_unique<State>(model.config(), options);
  state->build(model.host_model());
  return DeviceModel(std::move(state));
}

DeviceModel DeviceModel::random(const ModelConfig& config, const RandomWeights& weights,
                                const DeviceModelOptions& options) {
  kernels::cuda::require_gpu(options.device);
  auto state = std::make_unique<State>(config, options);
  const RandomModel shapes(state->config, weights);
  state->build(shapes.host());
  return DeviceModel(std::move(state));
}

const ModelConfig& DeviceModel::config() const {
  return state_->config;
}
const DeviceMemoryNeed& DeviceModel::memory() const {
  return state_->need;
}
int DeviceModel::device() const {
  return state_->options.device;
}
DeviceCacheType DeviceModel::cache_type() const {
  return state_->options.cache;
}
int DeviceModel::kv_b_bits() const {
  return state_->options.kv_b_bits;
}
int DeviceModel::sequences() const {
  return state_->options.sequences;
}
int DeviceModel::context() const {
  return state_->context;
}
int DeviceModel::pass_rows() const {
  return state_->options.pass_rows;
}
int DeviceModel::length(int sequence) const {
  return state_->lengths.at(static_cast<std::size_t>(sequence));
}

void DeviceModel::truncate(int sequence, int length) {
  stop();
  int& now = state_->lengths.at(static_cast<std::size_t>(sequence));
  now = std::clamp(length, 0, now);
}

void DeviceModel::pretend_length(int sequence, int new_length) {
  stop();
  const int length = state_->lengths.at(static_cast<std::size_t>(sequence));
  if (new_length > length) state_->check_room(sequence, static_cast<std::size_t>(new_length - length));
  state_->lengths[static_cast<std::size_t>(sequence)] = new_length;
}

void DeviceModel::forward(std::span<const int> ids, int sequence) {
  State& s = *state_;
  stop();
  if (ids.empty() || ids.size() > static_cast<std::size_t>(s.options.pass_rows)) {
    throw Error(ErrorKind::kUsage, fmt::format("{} rows in a pass, expected 1 to {}", ids.size(), s.options.pass_rows));
  }
  s.check_room(sequence, ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= s.config.vocab_size) {
      throw Error(ErrorKind::kUsage, fmt::format("token {} has id {}, expected 0 .. {} (vocab_size {})", i, ids[i],
                                                 s.config.vocab_size - 1, s.config.vocab_size));
    }
  }
  const backend::DeviceScope scope(s.options.device);
  int& length = s.lengths[static_cast<std::size_t>(sequence)];
  const int rows = static_cast<int>(ids.size());
  std::vector<int> sequences(ids.size(), sequence), positions(ids.size());
  for (int i = 0; i < rows; ++i) positions[static_cast<std::size_t>(i)] = length + i;
  s.upload_rows(ids, sequences, positions);
  s.forward_timer.start(s.stream);
  s.pass->layers({rows, true, context_bucket(length + rows, s.context)}, backend::native(s.stream));
  s.forward_timer.stop(s.stream);
  length += rows;
  s.forward_rows = rows;
  s.forward_sequence = sequence;
}

int DeviceModel::forward_rows() const {
  return state_->forward_rows;
}

void DeviceModel::logits(int row, int rows, float* logits) {
  State& s = *state_;
  if (row < 0 || rows < 0 || row > s.forward_rows || rows > s.forward_rows - row) {
    throw Error(ErrorKind::kUsage, fmt::format("logits of rows {} to {} of {}", row, row + rows, s.forward_rows));
  }
  const backend::DeviceScope scope(s.options.device);
  const std::size_t vocab = static_cast<std::size_t>(s.config.vocab_size);
  for (int done = 0; done < rows; done += kHeadRows) {
    const int count = std::min(kHeadRows, rows - done);
    s.pass->head(row + done, count, backend::native(s.stream));
    s.stream.copy_to_host(logits + static_cast<std::size_t>(done) * vocab, s.pass->logits(),
                          sizeof(float) * vocab * static_cast<std::size_t>(count));
  }
  s.stream.wait();
}

bool DeviceModel::samples(const kernels::SampleParams& params) const {
  if (params.repetition_penalty != 1) return false;
  const backend::DeviceScope scope(state_->options.device);
  return params.temperature == 0 || kernels::cuda::sample_top_fits(state_->config.vocab_size);
}

void DeviceModel::set_sampling(const kernels::SampleParams& params, std::span<const std::uint64_t> seeds) {
  State& s = *state_;
  const kernels::Sampler checked(params, 0);  // refuses what is no number for it
  if (!samples(params)) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("on this CUDA device tokens cannot be chosen with a repetition penalty ({}) or, but for "
                            "temperature 0, from more than {} tokens (vocab_size {})",
                            params.repetition_penalty, kernels::cuda::kMaxSampledVocabulary, s.config.vocab_size));
  }
  stop();
  const backend::DeviceScope scope(s.options.device);
  std::vector<std::uint64_t> states(static_cast<std::size_t>(s.options.sequences));
  std::iota(states.begin(), states.end(), std::uint64_t{0});
  std::copy_n(seeds.begin(), std::min(seeds.size(), states.size()), states.begin());
  s.stream.wait();  // recorded steps may be running
  s.stream.copy_to_device(s.pass->random_states(), states.data(), sizeof(std::uint64_t) * states.size());
  s.stream.wait();
  if (params == s.sample) return;
  s.graphs.clear();
  s.last_step = nullptr;
  s.sample = params;
}

int DeviceModel::choose() {
  State& s = *state_;
  if (s.forward_rows == 0) throw Error(ErrorKind::kUsage, "a token after no forward pass");
  const backend::DeviceScope scope(s.options.device);
  s.pass->head(s.forward_rows - 1, 1, backend::native(s.stream));
  s.choose_tokens(1, nullptr, s.pass->random_states() + s.forward_sequence);
  s.stream.copy_to_host(s.inputs->data(), s.pass->ids(), sizeof(int));
  s.stream.wait();
  return *reinterpret_cast<const int*>(s.inputs->data());
}

void DeviceModel::start(std::span<const int> ids) {
  State& s = *state_;
  stop();
  if (ids.empty() || ids.size() > static_cast<std::size_t>(s.options.sequences)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} sequences in a step, expected 1 to {}", ids.size(), s.options.sequences));
  }
  std::vector<int> sequences(ids.size()), positions(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    sequences[i] = static_cast<int>(i);
    positions[i] = s.lengths[i];
  }
  const backend::DeviceScope scope(s.options.device);
  s.upload_rows(ids, sequences, positions);
  s.batch = static_cast<int>(ids.size());
  s.forward_rows = 0;
  s.last_step = nullptr;
}

void DeviceModel::step() {
  State& s = *state_;
  if (s.batch == 0) throw Error(ErrorKind::kUsage, "a decode step before start()");
  if (s.pending.size() == s.slots.size()) {
    throw Error(ErrorKind::kUsage, fmt::format("{} decode steps are queued; read one first", s.pending.size()));
  }
  for (int i = 0; i < s.batch; ++i) s.check_room(i, 1);
  const backend::DeviceScope scope(s.options.device);
  const backend::CudaGraph& graph = s.step_graph(s.batch);
  State::StepSlot& slot = *s.slots[s.next_slot];
  s.last_step = &graph;
  slot.timer.start(s.stream);
  graph.replay(s.stream);
  slot.timer.stop(s.stream);
  // Beside the next step: a copy between two steps would take microseconds of the device's time.
  const auto batch = static_cast<std::size_t>(s.batch);
  s.copies.wait_for(slot.timer.stopped());
  s.copies.copy_to_host(slot.chosen.data(), s.pass->chosen(), sizeof(int) * batch * DevicePass::kKeptSteps);
  slot.done.record(s.copies);
  s.pending.push_back({s.next_slot, s.batch});
  s.next_slot = (s.next_slot + 1) % s.slots.size();
  for (std::size_t i = 0; i < batch; ++i) ++s.lengths[i];
  slot.positions.assign(s.lengths.begin(), s.lengths.begin() + s.batch);
}

std::vector<int> DeviceModel::take_step() {
  State& s = *state_;
  if (s.pending.empty()) throw Error(ErrorKind::kUsage, "no decode step to read");
  const State::Pending oldest = s.pending.front();
  State::StepSlot& slot = *s.slots[oldest.slot];
  slot.done.wait();
  s.pending.pop_front();
  s.last_taken = oldest.slot;
  const int* const chosen = reinterpret_cast<const int*>(slot.chosen.data());
  std::vector<int> ids;
  for (int i = 0; i < oldest.rows; ++i) {
    const int kept = slot.positions[static_cast<std::size_t>(i)] % DevicePass::kKeptSteps;
    ids.push_back(chosen[i * DevicePass::kKeptSteps + kept]);
  }
  return ids;
}

void DeviceModel::stop() {
  State& s = *state_;
  for (const State::Pending& step : s.pending) {
    for (int i = 0; i < step.rows; ++i) --s.lengths[static_cast<std::size_t>(i)];
  }
  s.pending.clear();
  s.batch = 0;
}

double DeviceModel::step_microseconds() const {
  return state_->slots[state_->last_taken]->timer.microseconds();
}

double DeviceModel::forward_microseconds() const {
  return state_->forward_timer.microseconds();
}

std::size_t DeviceModel::step_nodes() const {
  return state_->last_step == nullptr ? 0 : state_->last_step->nodes();
}

void DeviceModel::synchronize() {
  state_->stream.wait();
  state_->copies.wait();
}

PathTable DeviceModel::tune_paths(const PathTuneOptions& tune, bool* complete) {
  State& s = *state_;
  const backend::DeviceScope scope(s.options.device);
  PathTuner tuner(*s.pass, s.paths, s.weights.layers.size(), s.stream, tune);
  std::vector<int> row_counts;
  for (const int rows : tune.rows) {
    if (rows <= s.options.pass_rows && rows <= s.context) row_counts.push_back(rows);
  }
  stop();
  s.lengths.assign(s.lengths.size(), 0);
  for (std::size_t i = 0; i < row_counts.size(); ++i) {
    const int rows = row_counts[i];
    const bool decode = rows <= s.options.sequences;
    // Different tokens, so that routers choose different experts.
    std::vector<int> ids, sequences, positions;
    for (int r = 0; r < rows; ++r) {
      ids.push_back(static_cast<int>((std::int64_t{r} * 7919 + 17) % s.config.vocab_size));
      sequences.push_back(decode ? r : 0);
      positions.push_back(decode ? 0 : r);
    }
    s.upload_rows(ids, sequences, positions);
    tuner.tune({rows, !decode, context_bucket(decode ? 1 : rows, s.context)}, rows <= kHeadRows, row_counts.size() - i);
  }
  s.stream.wait();
  *complete = tuner.complete();
  PathTable table = tuner.take_table();
  table.stamp = this_path_stamp(s.options.device);
  return table;
}

const std::map<std::string, std::int64_t>& DeviceModel::path_calls() const {
  return state_->paths.calls();
}

}  // namespace fairway::model
