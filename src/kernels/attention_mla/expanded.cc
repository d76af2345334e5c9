// mla_expanded: keys and values of a segment of positions are formed for all heads, then all query rows meet them.
#include <algorithm>

#include "kernels/attention_mla/bodies.h"

namespace fairway::kernels {
namespace {

constexpr int kPiece = 64;                        // positions whose keys one task forms
constexpr std::int64_t kSegmentFloats = 1 << 19;  // 2 MiB of keys and values at a time, if that is a whole block
constexpr int kMaxSegment = 1024;

struct Expansion {
  int segment;          // positions at a time, a multiple of kAttendKeyBlock
  float* keys;          // [heads, nope + rope, segment]
  float* values;        // [heads, segment, v]
  float* pieces;        // per worker [kPiece, nope]
  float* blocks;        // per worker scratch of attend
  AttendState* states;  // [heads, m]
};

// Keys (transposed) and values of head h for `count` <= kPiece positions that start `offset` into the segment.
void form_piece(const MlaArgs& args, const AttendOps& ops, const Expansion& e, int h, int first, int offset, int count,
                float* piece) {
  const float* const cache = args.cache + (static_cast<std::int64_t>(first) + offset) * args.cache_ld;
  const std::int64_t row = static_cast<std::int64_t>(h) * (args.nope + args.v);
  float* const keys = e.keys + static_cast<std::int64_t>(h) * (args.nope + args.rope) * e.segment + offset;
  ops.dense_dot(dense_rows(*args.kv_b, row, args.nope), 0, args.nope, cache, args.cache_ld, count, piece, args.nope);
  ops.transpose(piece, args.nope, count, args.nope, keys, e.segment);
  ops.transpose(cache + args.latent, args.cache_ld, count, args.rope,
                keys + static_cast<std::int64_t>(args.nope) * e.segment, e.segment);
  float* const values = e.values + (static_cast<std::int64_t>(h) * e.segment + offset) * args.v;
  ops.dense_dot(dense_rows(*args.kv_b, row + args.nope, args.v), 0, args.v, cache, args.cache_ld, count, values,
                args.v);
}

// Query rows [i0, i1) of head h meet the segment [first, first + count).
void attend_rows(const MlaArgs& args, const AttendOps& ops, const Expansion& e, int h, int i0, int i1, int first,
                 int count, float* block) {
  const float* q[kAttendMaxRows];
  float* out[kAttendMaxRows];
  int limit[kAttendMaxRows];
  for (int i = i0; i < i1; ++i) {
    const std::int64_t row = static_cast<std::int64_t>(i) * args.heads + h;
    q[i - i0] = args.q + row * (args.nope + args.rope);
    out[i - i0] = args.out + row * args.v;
    limit[i - i0] = args.start + i + 1;
  }
  const AttendRows rows{q, out, e.states + static_cast<std::int64_t>(h) * args.m + i0, limit, i1 - i0};
  ops.attend(
      rows,
      {first, count, e.keys + static_cast<std::int64_t>(h) * (args.nope + args.rope) * e.segment, e.segment, true,
       e.values + static_cast<std::int64_t>(h) * e.segment * args.v, args.v, args.nope + args.rope, args.v},
      args.scale, block);
  if (first + count == args.start + args.m) ops.finish(rows, args.v);
}

Expansion allocate(const MlaArgs& args, KernelContext& context) {
  const int positions = args.start + args.m;
  const std::int64_t floats = static_cast<std::int64_t>(args.heads) * (args.nope + args.rope + args.v);
  const auto fitting = static_cast<int>(std::min<std::int64_t>(kSegmentFloats / floats, kMaxSegment));
  const int needed = (positions + kAttendKeyBlock - 1) / kAttendKeyBlock * kAttendKeyBlock;
  Expansion e{};
  e.segment = std::clamp(fitting / kAttendKeyBlock * kAttendKeyBlock, kAttendKeyBlock, needed);
  const std::size_t heads = static_cast<std::size_t>(args.heads),
                    workers = static_cast<std::size_t>(context.pool.size());
  backend::Workspace& ws = context.workspace;
  e.keys = ws.alloc<float>(heads * (args.nope + args.rope) * e.segment);
  e.values = ws.alloc<float>(heads * e.segment * args.v);
  e.pieces = ws.alloc<float>(workers * kPiece * args.nope);
  e.blocks = ws.alloc<float>(workers * attend_scratch_floats());
  e.states = ws.alloc<AttendState>(heads * args.m);
  return e;
}

}  // namespace

void mla_expanded(const MlaArgs& args, const AttendOps& ops, KernelContext& context) {
  if (args.m == 0) return;
  const backend::Workspace::Scope scope(context.workspace);
  const Expansion e = allocate(args, context);
  const int positions = args.start + args.m;
  const int row_blocks = (args.m + kAttendMaxRows - 1) / kAttendMaxRows;
  for (int first = 0; first < positions; first += e.segment) {
    const int count = std::min(e.segment, positions - first);
    const int pieces = (count + kPiece - 1) / kPiece;
    context.pool.parallel_for(static_cast<std::int64_t>(args.heads) * pieces, [&](std::int64_t task, int worker) {
      const int offset = static_cast<int>(task % pieces) * kPiece;
      form_piece(args, ops, e, static_cast<int>(task / pieces), first, offset, std::min(kPiece, count - offset),
                 e.pieces + static_cast<std::int64_t>(worker) * kPiece * args.nope);
    });
    context.pool.parallel_for(static_cast<std::int64_t>(args.heads) * row_blocks, [&](std::int64_t task, int worker) {
      // Later rows see more, so they go first and the short tasks fill the gaps at the end.
      const int i0 = (row_blocks - 1 - static_cast<int>(task / args.heads)) * kAttendMaxRows;
      attend_rows(args, ops, e, static_cast<int>(task % args.heads), i0, std::min(i0 + kAttendMaxRows, args.m), first,
                  count, e.blocks + worker * attend_scratch_floats());
    });
  }
}

}  // namespace fairway::kernels
