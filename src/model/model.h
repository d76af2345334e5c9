// A loaded model: architecture, weights by name, and the forward pass over a cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "kernels/common/context.h"
#include "kernels/rope/rope.h"
#include "moe/counters.h"
#include "moe/layer.h"
#include "select/select.h"

namespace fairway::model {

// Keys and values (or latents) of one sequence, fp32, and what else belongs to running that sequence. A Model is
// never changed by a forward pass, so sequences with caches of their own may run at the same time.
class KvCache {
 public:
  explicit KvCache(const formats::ModelConfig& config);
  int length() const { return length_; }
  void truncate(int length);    // forget positions >= length; a length beyond the present one changes nothing
  void reserve(int positions);  // room for that many in all; Error(kUsage) beyond max_position_embeddings
  std::int64_t bytes() const;   // allocated for keys and values

 private:
  friend class Model;
  // Room grows by an eighth (at least 256 positions) at a time, so a long context wastes at most 12.5 %.
  void grow_room(int positions);

  // MLA: one buffer per layer of [position][kv_lora_rank + rope]. GQA: [position][2][kv_heads][dim].
  std::vector<std::vector<float>> layers_;
  std::int64_t row_elems_;
  int max_positions_;
  int room_ = 0;
  int length_ = 0;
  kernels::RopeTable rope_;
  moe::MoeScratch scratch_;
};

// Which mathematics attention uses; tests force it, everyone else leaves it automatic.
enum class MlaPath { kAuto, kAbsorbed, kExpanded };

struct HostModel;
struct LayerWeights;
struct SourceLayer;

class Model {
 public:
  // Reads config.json and all tensors (mapped, not copied). progress(done, total) is called per layer if given.
  // Tensors that the architecture does not name (multi-token-prediction layers, say) are left alone.
  // fp8 weights are Error(kUnsupported), since no kernel runs them.
  static Model load(const std::filesystem::path& model_dir, const std::function<void(int, int)>& progress = {});

  // A model to be quantized, whose matrices may be fp8 too. The tensors of every layer are checked but not kept, so it
  // runs by read_layer() and the steps below, one layer in memory at a time, and not by forward(). An fp8 embedding or
  // head, which is rare, is held as floats.
  static Model load_source(const std::filesystem::path& model_dir, const std::function<void(int, int)>& progress = {});

  const formats::ModelConfig& config() const;
  const formats::Checkpoint& checkpoint() const;

  // Appends ids to the cache and returns their final hidden states (after the last norm), [ids.size(), hidden], in
  // `hidden`. Throws Error(kUsage) if the cache would exceed max_position_embeddings or an id is out of range.
  void forward(std::span<const int> ids, KvCache& cache, const select::Policy& policy, kernels::KernelContext& context,
               moe::Counters& counters, std::vector<float>& hidden, MlaPath mla = MlaPath::kAuto) const;

  // The steps of forward(), for programs that take one layer at a time over many sequences. x is [m, hidden], in place;
  // its rows are the positions from cache.length() on, and that length stays as it is. `weights` may be other weights
  // of the same shapes as the layer's own.
  void embed(std::span<const int> ids, float* x) const;
  void forward_layer(int layer, const LayerWeights& weights, float* x, int m, KvCache& cache,
                     const select::Policy& policy, kernels::KernelContext& context, moe::Counters& counters,
                     MlaPath mla = MlaPath::kAuto) const;
  void final_norm(float* x, int m, const select::Policy& policy, kernels::KernelContext& context,
                  moe::Counters& counters) const;
  // The layer's weights, read from the checkpoint anew: fp8 matrices as floats, all others mapped (model/weights.h).
  // Mapped memory of layers that were read before is given back.
  SourceLayer read_layer(int index) const;
  const kernels::LinearWeights& head() const;

  // Everything at once (model/host_model.h), for a copy on another device. Not of a source model.
  HostModel host_model() const;

  // hidden rows [m, hidden] -> logits [m, vocab_size]. Padded vocabulary entries are never returned.
  void logits(const float* hidden, int m, const select::Policy& policy, kernels::KernelContext& context,
              moe::Counters& counters, float* logits) const;

  // Bytes of the weights that one decoded token reads, for roofline shares: every linear layer as stored, the router,
  // top-k times the mean routed expert, the always-on experts, the head and one row of the embedding.
  std::int64_t weight_bytes_per_token() const;

  // The layers with routed experts, counted from 0 in model order, for benchmarks of the MoE block alone.
  int moe_layer_count() const;
  const moe::MoeLayerWeights& moe_layer(int index) const;

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

 private:
  Model();
  struct Weights;
  static Model open(const std::filesystem::path& model_dir, bool as_source,
                    const std::function<void(int, int)>& progress);
  std::unique_ptr<Weights> weights_;
};

}  // namespace fairway::model
