// attention_mla: multi-head latent attention over a cache of latents, absorbed (decode) and expanded (prefill).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/context.h"
#include "kernels/common/matrix.h"
#include "kernels/common/registry.h"

namespace fairway::kernels {

// The cache row of a position is [kv_lora_rank latent (after its norm) | qk_rope rotated key], fp32.
// kv_b: dense [heads * (nope + v), kv_lora_rank]; head h owns rows h * (nope + v) ..: first the nope key rows, then v.
// q: [m, heads, nope + rope] with the rope part already rotated. Row i attends to cache positions [0, start + i].
// out: [m, heads, v]. scale multiplies the scores.
struct MlaArgs {
  const float* q;
  const float* cache;
  std::int64_t cache_ld;  // elements between positions
  const DenseMatrix* kv_b;
  int heads, nope, rope, v, latent;
  int start, m;
  float scale;
  float* out;
};

// absorbed: scores and sums in the latent space, kv_b applied to the query and to the result.
// expanded: keys and values of all positions are formed first. Same mathematics; the choice is made by m.
using MlaFn = void (*)(const MlaArgs& args, KernelContext& context);

struct MlaRow {
  KernelRow info;  // family "mla_absorbed" or "mla_expanded"
  MlaFn fn;
};

std::span<const MlaRow> attention_mla_rows();

}  // namespace fairway::kernels
