// attention_gqa: causal grouped-query attention over a key/value cache.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/context.h"
#include "kernels/common/registry.h"

namespace fairway::kernels {

// q: [m, heads, dim], rotated. keys, values: [positions, kv_heads, dim] fp32 with row stride cache_ld (elements).
// Query head h reads key/value head h / (heads / kv_heads). Row i attends to positions [0, start + i].
// out: [m, heads, dim].
struct GqaArgs {
  const float* q;
  const float* keys;
  const float* values;
  std::int64_t cache_ld;
  int heads, kv_heads, dim;
  int start, m;
  float scale;
  float* out;
};

using GqaFn = void (*)(const GqaArgs& args, KernelContext& context);

struct GqaRow {
  KernelRow info;  // family "gqa"
  GqaFn fn;
};

std::span<const GqaRow> attention_gqa_rows();

}  // namespace fairway::kernels
