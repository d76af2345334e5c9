// The attention half of a layer, for multi-head latent attention and for grouped-query attention.
#include "model/attention_block.h"

#include <cmath>

#include "kernels/attention_gqa/attention_gqa.h"
#include "kernels/attention_mla/attention_mla.h"
#include "kernels/rms_norm/rms_norm.h"

namespace fairway::model {
namespace {

constexpr int kRopeRowsPerTask = 16;  // a row rotates every head once: a few microseconds

kernels::RopeLayout rope_layout(const formats::ModelConfig& config) {
  return config.rope_interleave ? kernels::RopeLayout::kInterleaved : kernels::RopeLayout::kHalves;
}

const kernels::MlaRow* choose_mla_row(const select::Policy& policy, MlaPath path, int m, int cached,
                                      const formats::ModelConfig& c) {
  switch (path) {
    case MlaPath::kAbsorbed:
      return select::select_mla_family(policy, "mla_absorbed");
    case MlaPath::kExpanded:
      return select::select_mla_family(policy, "mla_expanded");
    case MlaPath::kAuto:
      break;
  }
  return select::select_mla(policy, m, cached, {c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank});
}

}  // namespace

void mla_block(const MlaWeights& w, const formats::ModelConfig& c, const float* x, int m, const CacheSlice& cache,
               MlaPath path, float* out, const Execution& exec) {
  backend::Workspace& ws = exec.context.workspace;
  backend::Workspace::Scope scope(ws);
  const std::size_t rows = static_cast<std::size_t>(m);
  const int heads = c.num_attention_heads;
  const int head_q = c.qk_nope_head_dim + c.qk_rope_head_dim;
  const std::int64_t q_elems = std::int64_t{heads} * head_q;

  float* q = ws.alloc<float>(rows * q_elems);
  if (c.q_lora_rank > 0) {
    float* q_latent = ws.alloc<float>(rows * c.q_lora_rank);
    apply_linear(w.q_a, x, c.hidden_size, m, q_latent, c.q_lora_rank, exec);
    norm_rows(q_latent, c.q_lora_rank, w.q_a_norm.data(), c.latent_norm_eps, m, c.q_lora_rank, q_latent, c.q_lora_rank,
              exec);
    apply_linear(w.q_b, q_latent, c.q_lora_rank, m, q, q_elems, exec);
  } else {
    apply_linear(w.q_b, x, c.hidden_size, m, q, q_elems, exec);
  }

  float* fresh = cache.rows + cache.start * cache.row_elems;  // the projection writes [latent | key] in place
  apply_linear(w.kv_a, x, c.hidden_size, m, fresh, cache.row_elems, exec);
  const kernels::RopeLayout layout = rope_layout(c);
  for_row_blocks(exec.context.pool, m, kRopeRowsPerTask, [&](int begin, int end) {
    float* first = fresh + begin * cache.row_elems;
    kernels::rms_norm(first, cache.row_elems, w.kv_a_norm.data(), c.latent_norm_eps, end - begin, c.kv_lora_rank, first,
                      cache.row_elems);
    for (int i = begin; i < end; ++i) {
      const int position = cache.start + i;
      kernels::apply_rope(fresh + i * cache.row_elems + c.kv_lora_rank, cache.rope, position, layout);
      float* q_rope = q + i * q_elems + c.qk_nope_head_dim;
      for (int h = 0; h < heads; ++h) kernels::apply_rope(q_rope + h * head_q, cache.rope, position, layout);
    }
  });

  const std::int64_t v_elems = std::int64_t{heads} * c.v_head_dim;
  float* attended = ws.alloc<float>(rows * v_elems);
  const kernels::MlaRow* row = choose_mla_row(exec.policy, path, m, cache.start, c);
  exec.counters.count_kernel(row->info);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_q)));
  {
    const moe::StageTimer timer(exec.counters, moe::Stage::kAttention);
    row->fn({q, cache.rows, cache.row_elems, &w.kv_b, heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim,
             c.kv_lora_rank, cache.start, m, scale, attended},
            exec.context);
  }
  apply_linear(w.o, attended, v_elems, m, out, c.hidden_size, exec);
}

void gqa_block(const GqaWeights& w, const formats::ModelConfig& c, const float* x, int m, const CacheSlice& cache,
               float* out, const Execution& exec) {
  backend::Workspace& ws = exec.context.workspace;
  backend::Workspace::Scope scope(ws);
  const std::size_t rows = static_cast<std::size_t>(m);
  const int heads = c.num_attention_heads;
  const int kv_heads = c.num_key_value_heads;
  const int dim = c.head_dim;
  const std::int64_t q_elems = std::int64_t{heads} * dim;
  const std::int64_t kv_elems = std::int64_t{kv_heads} * dim;

  float* q = ws.alloc<float>(rows * q_elems);
  float* keys = cache.rows + cache.start * cache.row_elems;
  float* values = keys + kv_elems;
  apply_linear(w.q, x, c.hidden_size, m, q, q_elems, exec);
  apply_linear(w.k, x, c.hidden_size, m, keys, cache.row_elems, exec);
  apply_linear(w.v, x, c.hidden_size, m, values, cache.row_elems, exec);

  const kernels::RopeLayout layout = rope_layout(c);
  for_row_blocks(exec.context.pool, m, kRopeRowsPerTask, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      float* q_row = q + i * q_elems;
      float* k_row = keys + i * cache.row_elems;
      kernels::rms_norm(q_row, dim, w.q_norm.data(), c.rms_norm_eps, heads, dim, q_row, dim);
      kernels::rms_norm(k_row, dim, w.k_norm.data(), c.rms_norm_eps, kv_heads, dim, k_row, dim);
      const int position = cache.start + i;
      for (int h = 0; h < heads; ++h) kernels::apply_rope(q_row + h * dim, cache.rope, position, layout);
      for (int h = 0; h < kv_heads; ++h) kernels::apply_rope(k_row + h * dim, cache.rope, position, layout);
    }
  });

  float* attended = ws.alloc<float>(rows * q_elems);
  const kernels::GqaRow* row = select::select_gqa(exec.policy, m);
  exec.counters.count_kernel(row->info);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  {
    const moe::StageTimer timer(exec.counters, moe::Stage::kAttention);
    row->fn(
        {q, cache.rows, cache.rows + kv_elems, cache.row_elems, heads, kv_heads, dim, cache.start, m, scale, attended},
        exec.context);
  }
  apply_linear(w.o, attended, q_elems, m, out, c.hidden_size, exec);
}

}  // namespace fairway::model
