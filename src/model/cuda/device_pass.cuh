// The kernels of one forward pass over some rows, in order, and the memory they work in.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "backend/cuda/arena.h"
#include "backend/cuda/stream.h"
#include "formats/config.h"
#include "kernels/attention_mla/cuda/mla_decode.cuh"
#include "kernels/common/cuda/attend.cuh"
#include "kernels/common/cuda/pass.cuh"
#include "kernels/rms_norm/cuda/rms_norm_cuda.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"
#include "model/cuda/device_paths.cuh"
#include "model/cuda/device_weights.cuh"

namespace fairway::model {

struct DevicePassLimits {
  int rows;       // most rows of a pass
  int head_rows;  // most rows whose logits are wanted at once
  int sequences, context;
  kernels::cuda::CacheType cache;
};

// Rows of one pass: consecutive positions of one sequence, or one position of each of several.
struct DevicePassRows {
  int rows;
  bool one_sequence;
  int max_context;                   // no row's position is beyond max_context - 1
  std::span<const int> layers = {};  // of the model, in this order; empty: all of them
};

class DevicePass {
 public:
  // With `arena` null it only adds up bytes(). The weights must outlive it.
  DevicePass(const formats::ModelConfig& config, const DeviceWeights& weights, const DevicePassLimits& limits,
             backend::DeviceArena* arena);

  std::int64_t cache_bytes() const { return cache_bytes_; }
  std::int64_t scratch_bytes() const { return bytes_ - cache_bytes_; }

  // Chooses the path of every call; the default ones without it. Must outlive this.
  void set_paths(DevicePaths* paths) { paths_ = paths; }
  // While set, layers() and head() add their calls to it. For calls of their own, with the same scratch.
  void set_calls(DeviceCalls* calls) { calls_ = calls; }
  void* linear_workspace() const { return linear_workspace_; }
  void* moe_workspace() const { return moe_workspace_; }

  // Inputs: ids(), sequence() and position() hold pass.rows entries. Leaves every row for head().
  void layers(const DevicePassRows& pass, cudaStream_t stream);
  // Logits of rows [row, row + rows) of the last layers(), [rows, vocab_size], into logits().
  void head(int row, int rows, cudaStream_t stream);

  // To be called once before the first pass: zeros in columns that no kernel writes and linear layers read, and in the
  // caches, whose unwritten rows DeviceModel::pretend_length() makes visible.
  void clear(backend::CudaStream& stream) const;

  int* ids() const { return ids_; }
  // [sequences, kKeptSteps]: what the last steps chose, each at its new position modulo kKeptSteps.
  static constexpr int kKeptSteps = 2;
  int* chosen() const { return chosen_; }
  int* sequence() const { return sequence_; }
  int* position() const { return position_; }
  float* logits() const { return logits_; }
  unsigned long long* random_states() const { return random_states_; }  // [sequences], of the generators that draw
  float* cos_table() const { return cos_; }
  float* sin_table() const { return sin_; }
  int rope_half() const;  // entries of a position in either table

 private:
  template <class T>
  T* take(std::size_t count, const char* what);
  void place();
  void place_attention();
  void place_caches();
  kernels::cuda::PassRows rows_of(const DevicePassRows& pass) const { return {sequence_, position_, pass.rows}; }
  kernels::cuda::LayerCache cache_of(std::size_t layer) const;
  kernels::cuda::AttendCall attend_call(std::size_t layer, const DevicePassRows& pass) const;
  kernels::cuda::NormCall norm_call(float* add, const float* weight, int rows) const;
  kernels::cuda::LinearNorm linear_norm(const kernels::cuda::NormCall& call) const;
  void normed_linears(const kernels::cuda::NormCall& norm, std::initializer_list<const DeviceLinear*> matrices,
                      std::initializer_list<float*> outputs, cudaStream_t stream);
  void linears(const __half* x, int ldx, int rows, const DeviceLinear* const* matrices, float* const* outputs,
               int count, bool add, cudaStream_t stream, const kernels::cuda::NormCall* norm);
  kernels::cuda::MlaQuery query_inside(const DeviceLinear& q_b, const kernels::cuda::NormCall& norm) const;
  // input: the norm in front of a layer's attention.
  void mla(std::size_t layer, const kernels::cuda::NormCall& input, const DevicePassRows& pass, cudaStream_t stream);
  void gqa(std::size_t layer, const kernels::cuda::NormCall& input, const DevicePassRows& pass, cudaStream_t stream);
  void experts(const DeviceLayer& layer, int rows, cudaStream_t stream);
  void dense_mlp(const DeviceMlp& mlp, const kernels::cuda::NormCall& input, cudaStream_t stream);

  const formats::ModelConfig& c_;
  const DeviceWeights& weights_;
  DevicePassLimits limits_;
  backend::DeviceArena* arena_;
  DevicePaths* paths_ = nullptr;
  DeviceCalls* calls_ = nullptr;
  std::int64_t bytes_ = 0, cache_bytes_ = 0;

  int hidden_padded_, q_rank_padded_, attended_padded_;
  int *ids_ = nullptr, *sequence_ = nullptr, *position_ = nullptr;
  float *cos_ = nullptr, *sin_ = nullptr;
  float* residual_[2] = {};                           // [rows, hidden_padded]: residual streams that take turns
  float* x_ = nullptr;                                // the one with the stream after the kernels that were queued last
  float* delta_ = nullptr;                            // [rows, hidden_padded]: what a layer adds to it
  __half* normed_ = nullptr;                          // [rows, hidden_padded]
  float *q_latent_ = nullptr, *kv_ = nullptr;         // MLA: [rows, q_lora_rank], [rows, latent + rope]
  __half* q_latent_normed_ = nullptr;                 // [rows, q_rank_padded]
  float *q_ = nullptr, *k_ = nullptr, *v_ = nullptr;  // [rows, heads, key], GQA: [rows, kv_heads, dim]
  __half *q_nope_ = nullptr, *q_full_ = nullptr;      // MLA: [rows, heads, nope]; [rows, heads, key of the cache]
  __half* latent_out_ = nullptr;                      // MLA: [rows, heads, latent]
  __half* attended_ = nullptr;                        // [rows, attended_padded]
  int* expert_ids_ = nullptr;                         // [rows, top_k]
  float *expert_weights_ = nullptr, *router_logits_ = nullptr;
  uint4* route_units_ = nullptr;  // see AnnouncedRoutes
  unsigned* route_turn_ = nullptr;
  unsigned* route_row_ = nullptr;
  std::size_t route_units_bytes_ = 0;
  float *gate_ = nullptr, *up_ = nullptr;  // [up to kDenseRows, padded width of a dense MLP]
  __half* gated_ = nullptr;                // the same
  float* logits_ = nullptr;                // [head_rows, vocab_size]
  int* chosen_ = nullptr;
  unsigned long long* random_states_ = nullptr;
  void *linear_workspace_ = nullptr, *moe_workspace_ = nullptr, *attend_workspace_ = nullptr;
  unsigned char* cache_ = nullptr;
  std::size_t layer_cache_bytes_ = 0;
};

}  // namespace fairway::model
