// gqa: the query heads that share a key/value head, of several rows, go through its cache together.
#include <algorithm>

#include "kernels/attention_gqa/bodies.h"

namespace fairway::kernels {
namespace {

// From this many query rows per key/value head on, transposing the keys once pays: scores then need no sums across
// lanes. Depends on the shape only, so that results do not depend on the number of threads.
constexpr int kTransposeRows = 16;
constexpr std::int64_t kSegmentFloats = 1 << 19;  // 2 MiB of transposed keys at a time, if that is a whole block
constexpr int kMaxSegment = 1024;
constexpr int kPiece = 64;  // positions one task transposes

struct Shape {
  int group;  // query heads per key/value head
  int rows;   // query rows per key/value head: m * group, query position major
};

// Rows [r0, r1) of key/value head g meet a segment; the last segment ends their sums.
void attend_rows(const GqaArgs& args, const AttendOps& ops, const Shape& shape, int g, int r0, int r1,
                 const AttendSegment& segment, AttendState* states, float* block) {
  const float* q[kAttendMaxRows];
  float* out[kAttendMaxRows];
  int limit[kAttendMaxRows];
  for (int r = r0; r < r1; ++r) {
    const int i = r / shape.group, h = g * shape.group + r % shape.group;
    const std::int64_t offset = (static_cast<std::int64_t>(i) * args.heads + h) * args.dim;
    q[r - r0] = args.q + offset;
    out[r - r0] = args.out + offset;
    limit[r - r0] = args.start + i + 1;
  }
  const AttendRows rows{q, out, states + r0, limit, r1 - r0};
  ops.attend(rows, segment, args.scale, block);
  if (segment.first + segment.count == args.start + args.m) ops.finish(rows, args.dim);
}

// Few rows: the keys are read as they lie in the cache.
void run_few(const GqaArgs& args, const AttendOps& ops, const Shape& shape, AttendState* states, float* blocks,
             KernelContext& context) {
  const int positions = args.start + args.m, threads = context.pool.size();
  // Rows of one task share the cache rows they read; two tasks per thread leave something to balance.
  const int wanted = (2 * threads + args.kv_heads - 1) / args.kv_heads;
  const int block = (shape.rows + wanted - 1) / wanted;
  const int row_blocks = (shape.rows + block - 1) / block;
  context.pool.parallel_for(static_cast<std::int64_t>(args.kv_heads) * row_blocks, [&](std::int64_t task, int worker) {
    const int g = static_cast<int>(task / row_blocks), r0 = static_cast<int>(task % row_blocks) * block;
    const std::int64_t column = static_cast<std::int64_t>(g) * args.dim;
    const AttendSegment segment{
        0,        positions, args.keys + column, args.cache_ld, false, args.values + column, args.cache_ld,
        args.dim, args.dim};
    attend_rows(args, ops, shape, g, r0, std::min(r0 + block, shape.rows), segment,
                states + static_cast<std::int64_t>(g) * shape.rows, blocks + worker * attend_scratch_floats());
  });
}

// Many rows: a segment of keys is transposed once for all of them.
void run_many(const GqaArgs& args, const AttendOps& ops, const Shape& shape, AttendState* states, float* blocks,
              KernelContext& context) {
  const int positions = args.start + args.m;
  const std::int64_t floats = static_cast<std::int64_t>(args.kv_heads) * args.dim;
  const auto fitting = static_cast<int>(std::min<std::int64_t>(kSegmentFloats / floats, kMaxSegment));
  const int needed = (positions + kAttendKeyBlock - 1) / kAttendKeyBlock * kAttendKeyBlock;
  const int length = std::clamp(fitting / kAttendKeyBlock * kAttendKeyBlock, kAttendKeyBlock, needed);
  float* const keys =
      context.workspace.alloc<float>(static_cast<std::size_t>(floats) * length);  // [kv_heads, dim, length]
  const int row_blocks = (shape.rows + kAttendMaxRows - 1) / kAttendMaxRows;

  for (int first = 0; first < positions; first += length) {
    const int count = std::min(length, positions - first), pieces = (count + kPiece - 1) / kPiece;
    context.pool.parallel_for(static_cast<std::int64_t>(args.kv_heads) * pieces, [&](std::int64_t task, int) {
      const std::int64_t column = task / pieces * args.dim;
      const int offset = static_cast<int>(task % pieces) * kPiece;
      ops.transpose(args.keys + (static_cast<std::int64_t>(first) + offset) * args.cache_ld + column, args.cache_ld,
                    std::min(kPiece, count - offset), args.dim, keys + column * length + offset, length);
    });
    context.pool.parallel_for(
        static_cast<std::int64_t>(args.kv_heads) * row_blocks, [&](std::int64_t task, int worker) {
          const int g = static_cast<int>(task % args.kv_heads);
          // Later rows see more, so they go first and the short tasks fill the gaps at the end.
          const int r0 = (row_blocks - 1 - static_cast<int>(task / args.kv_heads)) * kAttendMaxRows;
          const std::int64_t column = static_cast<std::int64_t>(g) * args.dim;
          const AttendSegment segment{first,         count,    keys + column * length,
                                      length,        true,     args.values + first * args.cache_ld + column,
                                      args.cache_ld, args.dim, args.dim};
          attend_rows(args, ops, shape, g, r0, std::min(r0 + kAttendMaxRows, shape.rows), segment,
                      states + static_cast<std::int64_t>(g) * shape.rows, blocks + worker * attend_scratch_floats());
        });
  }
}

}  // namespace

void gqa(const GqaArgs& args, const AttendOps& ops, KernelContext& context) {
  if (args.m == 0) return;
  const backend::Workspace::Scope scope(context.workspace);
  const Shape shape{args.heads / args.kv_heads, args.m * (args.heads / args.kv_heads)};
  auto* const states = context.workspace.alloc<AttendState>(static_cast<std::size_t>(args.kv_heads) * shape.rows);
  auto* const blocks =
      context.workspace.alloc<float>(static_cast<std::size_t>(context.pool.size()) * attend_scratch_floats());
  if (shape.rows < kTransposeRows) {
    run_few(args, ops, shape, states, blocks, context);
  } else {
    run_many(args, ops, shape, states, blocks, context);
  }
}

}  // namespace fairway::kernels
