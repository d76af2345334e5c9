// The launches of an attention call: how it is cut, what is not possible, and the sum over splits.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/attend.cuh"
#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/attend_merge.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kSharedPerCta = 1024;  // reserved by the system for each CTA
constexpr int kMaxCtas = 4;          // of an SM, of any instance
constexpr int kMaxQueries = 64;      // of a unit, of any instance
constexpr int kTilesOfSecond = 4;
// Of more rows than these the splits are merged by a launch of their own, which takes about as long as so many tiles.
constexpr int kMergedRows = 4, kTilesOfLaunch = 4;
// A row's queries of up to so many tiles are shared by several CTAs while there are multiprocessors for them.
constexpr int kSharedTiles = 4, kSharedQueries = 8;
// Latent attention of so few rows: most tiles of a split of a single row and of several, for the kernel that has two in
// shared memory at once and loads them ahead.
constexpr int kLatentRows = 4, kLatentTilesOfOne = 4, kLatentTilesOfMore = 2;
constexpr int kCombineValues = 128;  // of a CTA
constexpr int kCombineLanes = kCombineValues / 8, kCombineGroups = 16;

// One CTA has 128 values of a query: 16 lanes times 8, and 16 groups that share the splits.
__global__ void __launch_bounds__(kCombineLanes* kCombineGroups)
    combine_splits(const __grid_constant__ AttendArgs args, int queries_of_unit) {
  auto* const sums = dynamic_shared<float>();  // [groups, kCombineValues + 1], the last is the sum of weights
  const AttendCall& call = args.call;
  const int query = static_cast<int>(blockIdx.x), values = call.value_dim;
  int last_row = query / call.heads;
  if (call.one_sequence) {
    const int first = (last_row * args.group + query % call.heads % args.group) / queries_of_unit * queries_of_unit;
    last_row = (min(first + queries_of_unit, call.rows.count * args.group) - 1) / args.group;
  }
  const int lane = static_cast<int>(threadIdx.x) % kCombineLanes, group = static_cast<int>(threadIdx.x) / kCombineLanes;
  const int column = static_cast<int>(blockIdx.y) * kCombineValues + 8 * lane;
  const float* const weights = args.weights + static_cast<long long>(query) * args.splits;
  wait_for_previous_kernel();
  let_next_kernel_start();

  const int used = attend_used_splits(call.rows.position[last_row], args.splits);
  const float most = largest_weight(weights, used);
  float sum[8] = {}, total = 0;
  if (column < values) {
    merge_splits<4>(args.partial + static_cast<long long>(query) * args.splits * values + column, values, weights, used,
                    most, group, kCombineGroups, sum, total);
  }
  float* const mine = sums + group * (kCombineValues + 1);
  for (int i = 0; i < 8; ++i) mine[8 * lane + i] = sum[i];
  if (lane == 0) mine[kCombineValues] = total;
  __syncthreads();
  const int value = static_cast<int>(threadIdx.x), at = static_cast<int>(blockIdx.y) * kCombineValues + value;
  if (value >= kCombineValues || at >= values) return;
  float all = 0, weight = 0;
  for (int g = 0; g < kCombineGroups; ++g) {
    all += sums[g * (kCombineValues + 1) + value];
    weight += sums[g * (kCombineValues + 1) + kCombineValues];
  }
  call.out[static_cast<long long>(query) * values + at] = __float2half_rn(all / weight);
}

void require(bool holds, const std::string& what) {
  if (!holds) throw Error(ErrorKind::kUsage, "CUDA attention: " + what);
}

std::string dims_of(const char* name, int value, const char* expected) {
  return std::string(name) + " " + std::to_string(value) + ", expected " + expected;
}

void check(const AttendCall& call) {
  const auto dim = [](const char* name, int value, int most) {
    require(value >= 16 && value <= most && value % 16 == 0,
            dims_of(name, value, ("a multiple of 16, at most " + std::to_string(most)).c_str()));
  };
  const auto offset = [](const char* name, int value) {
    require(value >= 0 && value % 16 == 0, dims_of(name, value, "a multiple of 16"));
  };
  dim("key_dim", call.key_dim, kMaxKeyDim);
  dim("value_dim", call.value_dim, kMaxValueDim);
  offset("key_offset", call.key_offset);
  offset("key_stride", call.key_stride);
  offset("value_offset", call.value_offset);
  offset("value_stride", call.value_stride);
  offset("cache row_elems", call.cache.row_elems);
  require(call.rows.count >= 1, dims_of("rows", call.rows.count, "1 or more"));
  require(call.max_context >= 1, dims_of("max_context", call.max_context, "1 or more"));
  require(call.fresh >= 0, dims_of("fresh", call.fresh, "0 or more"));
  require(call.kv_heads >= 1 && call.kv_heads <= 65535 && call.heads % call.kv_heads == 0 && call.heads >= 1,
          std::to_string(call.heads) + " heads over " + std::to_string(call.kv_heads) +
              " key/value heads, expected a multiple");
  const long long last = call.kv_heads - 1;
  require(call.key_offset + last * call.key_stride + call.key_dim <= call.cache.row_elems &&
              call.value_offset + last * call.value_stride + call.value_dim <= call.cache.row_elems,
          "keys or values end beyond the " + std::to_string(call.cache.row_elems) + " elements of a cache row");
}

// Splits for units * kv_heads CTAs without them. A second CTA on an SM costs as much again for the results of its
// split: not worth it for less than kTilesOfSecond tiles, unless there are few queries.
int choose_splits(const AttendKernel& kernel, int shared_bytes, long long units, int tiles, int rows) {
  const int ctas = std::clamp(gpu_features().shared_bytes / (shared_bytes + kSharedPerCta), 1, kernel.ctas);
  const long long one = sm_count() / units, all = static_cast<long long>(ctas) * sm_count() / units;
  const long long most =
      kernel.queries <= 8 ? all : std::max<long long>(one, std::min<long long>(all, tiles / kTilesOfSecond));
  const int splits = static_cast<int>(std::clamp<long long>(most, 1, tiles));
  const int share = (tiles + splits - 1) / splits;
  if (rows > kMergedRows && tiles - share < kTilesOfLaunch) return 1;
  return (tiles + share - 1) / share;
}

// The instance for the most queries, up to `queries`, that shared memory has room for; with one tile in place of two if
// that lets more of them share it.
AttendKernel choose_kernel(const AttendArgs& args, int queries) {
  const AttendCall& call = args.call;
  const bool half = call.cache.type == CacheType::kHalf;
  const auto fits = [&](const AttendKernel& kernel) {
    return kernel.shared_bytes(args) <= gpu_features().shared_bytes;
  };
  for (int most = queries;; most = most > 24 ? 24 : 8) {
    const AttendKernel kernel =
        half ? attend_kernel_half(most, call.value_dim) : attend_kernel_e4m3(most, call.value_dim);
    if (fits(kernel)) return kernel;
    if (most > 8 && most <= 24) continue;  // there is no small one
    const AttendKernel small = half ? attend_kernel_half_small(most) : attend_kernel_e4m3_small(most);
    if (fits(small) || most <= 8) return small;
  }
}

std::size_t partial_bytes(std::size_t queries_and_splits, int value_dim) {
  return (queries_and_splits * sizeof(__half) * static_cast<std::size_t>(value_dim) + 255) / 256 * 256;
}

}  // namespace

AttendPlan plan_attend(const AttendCall& call, void* workspace) {
  check(call);
  AttendPlan plan{};
  AttendArgs& args = plan.args;
  args.call = call;
  args.group = call.heads / call.kv_heads;
  args.scale_log2 = call.scale * kLog2E;
  const int elem = cache_type_bytes(call.cache.type);
  const bool value_in_key = call.kv_heads == 1 && call.value_offset >= call.key_offset &&
                            call.value_offset + call.value_dim <= call.key_offset + call.key_dim;
  args.key_pieces = call.key_dim * elem / kPieceBytes;
  args.value_piece = value_in_key ? (call.value_offset - call.key_offset) * elem / kPieceBytes : args.key_pieces;
  args.row_pieces = args.key_pieces + (value_in_key ? 0 : call.value_dim * elem / kPieceBytes);

  const long long together = static_cast<long long>(args.group) * (call.one_sequence ? call.rows.count : 1);
  const int tiles = (call.max_context + kAttendTile - 1) / kAttendTile;
  int queries = static_cast<int>(std::min<long long>(together, kMaxQueries));
  const int shares = (args.group + kSharedQueries - 1) / kSharedQueries;
  if (!call.one_sequence && tiles <= kSharedTiles &&
      static_cast<long long>(call.rows.count) * shares * call.kv_heads <= sm_count()) {
    queries = std::min(queries, kSharedQueries);
  }
  plan.kernel = choose_kernel(args, queries);
  const int latent_splits = std::min(sm_count() / call.rows.count, tiles);
  if (latent_splits > 1 && latent_fits(call) && call.rows.count <= kLatentRows && tiles > kSharedTiles &&
      tiles <= latent_splits * (call.rows.count == 1 ? kLatentTilesOfOne : kLatentTilesOfMore)) {
    const AttendKernel latent = attend_kernel_latent(call);
    plan.is_latent = gpu_features().wgmma && latent.shared_bytes(args) <= gpu_features().shared_bytes;
    if (plan.is_latent) plan.kernel = latent;
  }
  args.row_units = static_cast<int>((together + plan.kernel.queries - 1) / plan.kernel.queries);
  plan.units = args.row_units * (call.one_sequence ? 1 : call.rows.count);
  plan.shared_bytes = plan.kernel.shared_bytes(args);
  require(plan.shared_bytes <= gpu_features().shared_bytes,
          dims_of("shared memory bytes", plan.shared_bytes, "less: key and value are too wide"));
  args.splits = plan.is_latent
                    ? latent_splits
                    : choose_splits(plan.kernel, plan.shared_bytes, static_cast<long long>(plan.units) * call.kv_heads,
                                    tiles, call.rows.count);
  if (args.splits > 1) {
    const std::size_t partials = static_cast<std::size_t>(call.rows.count) * static_cast<std::size_t>(call.heads) *
                                 static_cast<std::size_t>(args.splits);
    args.partial = static_cast<__half*>(workspace);
    args.weights =
        reinterpret_cast<float*>(static_cast<unsigned char*>(workspace) + partial_bytes(partials, call.value_dim));
  }
  return plan;
}

void launch_attend_units(const AttendPlan& plan, cudaStream_t stream) {
  if (plan.is_latent) {  // so that the next kernel's CTAs fit beside its own
    backend::check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(plan.kernel.run),
                                             cudaFuncAttributePreferredSharedMemoryCarveout, 100),
                        "attend");
  }
  const dim3 grid(static_cast<unsigned>(plan.units), static_cast<unsigned>(plan.args.call.kv_heads),
                  static_cast<unsigned>(plan.args.splits));
  backend::check_cuda(launch(plan.kernel.run, {grid, kAttendThreads, plan.shared_bytes}, stream, plan.args), "attend");
}

// Keys are split while there are fewer units than CTAs that run at once, so units times splits are at most those.
std::size_t attend_workspace_bytes(const AttendCall& largest) {
  check(largest);
  const auto group = static_cast<long long>(largest.heads / largest.kv_heads);
  const long long queries = std::min<long long>(kMaxQueries, group * (largest.one_sequence ? largest.rows.count : 1));
  const auto all = static_cast<std::size_t>(kMaxCtas * sm_count() * queries);
  return partial_bytes(all, largest.value_dim) + all * sizeof(float);
}

void attend(const AttendCall& call, void* workspace, cudaStream_t stream) {
  const AttendPlan plan = plan_attend(call, workspace);
  launch_attend_units(plan, stream);
  if (plan.args.splits == 1) return;
  const dim3 blocks(static_cast<unsigned>(call.rows.count * call.heads),
                    static_cast<unsigned>((call.value_dim + kCombineValues - 1) / kCombineValues));
  const int shared = kCombineGroups * (kCombineValues + 1) * static_cast<int>(sizeof(float));
  backend::check_cuda(
      launch(combine_splits, {blocks, kCombineLanes * kCombineGroups, shared}, stream, plan.args, plan.kernel.queries),
      "combine_splits");
}

}  // namespace fairway::kernels::cuda
