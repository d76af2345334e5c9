// mla_absorbed: every head's query moves into the latent space and meets the cache rows as they are.
#include <algorithm>
#include <cstring>

#include "kernels/attention_mla/bodies.h"

namespace fairway::kernels {
namespace {

// Scratch of the call: [m * heads, latent + rope] queries, [m * heads, latent] sums, blocks of scores.
struct Scratch {
  float* query;
  float* mixed;
  float* blocks;  // per worker
};

// Heads [h0, h1) of query rows [i0, i1), at most kAttendMaxRows together.
void run_task(const MlaArgs& args, const AttendOps& ops, const Scratch& scratch, int h0, int h1, int i0, int i1,
              float* block) {
  const int width = args.latent + args.rope;
  const auto index = [&](int i, int h) { return static_cast<std::int64_t>(i) * args.heads + h; };
  const float* q[kAttendMaxRows];
  float* out[kAttendMaxRows];
  for (int h = h0; h < h1; ++h) {
    for (int i = i0; i < i1; ++i) {
      q[i - i0] = args.q + index(i, h) * (args.nope + args.rope);
      out[i - i0] = scratch.query + index(i, h) * width;
      std::memcpy(out[i - i0] + args.latent, q[i - i0] + args.nope,
                  sizeof(float) * static_cast<std::size_t>(args.rope));
    }
    ops.combine(*args.kv_b, h * (args.nope + args.v), args.nope, q, i1 - i0, out);
  }

  AttendState state[kAttendMaxRows];
  int limit[kAttendMaxRows];
  int rows = 0;
  for (int i = i0; i < i1; ++i) {
    for (int h = h0; h < h1; ++h, ++rows) {
      q[rows] = scratch.query + index(i, h) * width;
      out[rows] = scratch.mixed + index(i, h) * args.latent;
      limit[rows] = args.start + i + 1;
    }
  }
  const AttendRows block_rows{q, out, state, limit, rows};
  ops.attend(block_rows,
             {0, args.start + i1, args.cache, args.cache_ld, false, args.cache, args.cache_ld, width, args.latent},
             args.scale, block);
  ops.finish(block_rows, args.latent);

  for (int h = h0; h < h1; ++h) {
    const std::int64_t first = static_cast<std::int64_t>(h) * (args.nope + args.v) + args.nope;
    ops.dense_dot(dense_rows(*args.kv_b, first, args.v), 0, args.v, scratch.mixed + index(i0, h) * args.latent,
                  static_cast<std::int64_t>(args.heads) * args.latent, i1 - i0, args.out + index(i0, h) * args.v,
                  static_cast<std::int64_t>(args.heads) * args.v);
  }
}

}  // namespace

void mla_absorbed(const MlaArgs& args, const AttendOps& ops, KernelContext& context) {
  if (args.m == 0) return;
  const backend::Workspace::Scope scope(context.workspace);
  const std::size_t all = static_cast<std::size_t>(args.m) * args.heads;
  Scratch scratch{};
  scratch.query = context.workspace.alloc<float>(all * (args.latent + args.rope));
  scratch.mixed = context.workspace.alloc<float>(all * args.latent);
  scratch.blocks =
      context.workspace.alloc<float>(static_cast<std::size_t>(context.pool.size()) * attend_scratch_floats());

  // Heads of one task share the cache rows they read; two tasks per thread leave something to balance.
  const int row_block = std::min(args.m, kAttendMaxRows);
  const int share = (args.heads + 2 * context.pool.size() - 1) / (2 * context.pool.size());
  const int head_block = std::clamp(share, 1, kAttendMaxRows / row_block);
  const int head_blocks = (args.heads + head_block - 1) / head_block;
  const int row_blocks = (args.m + row_block - 1) / row_block;
  context.pool.parallel_for(static_cast<std::int64_t>(head_blocks) * row_blocks, [&](std::int64_t task, int worker) {
    const int h0 = static_cast<int>(task % head_blocks) * head_block;
    const int i0 = static_cast<int>(task / head_blocks) * row_block;
    run_task(args, ops, scratch, h0, std::min(h0 + head_block, args.heads), i0, std::min(i0 + row_block, args.m),
             scratch.blocks + worker * attend_scratch_floats());
  });
}

}  // namespace fairway::kernels
