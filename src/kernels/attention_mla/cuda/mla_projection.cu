// The launches of kv_b_proj: which kernel, what is not possible.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/mla_projection_few.cuh"
#include "kernels/attention_mla/cuda/mla_projection_many.cuh"
#include "kernels/attention_mla/cuda/mla_unfold_splits.cuh"
#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/launch.cuh"

namespace fairway::kernels::cuda {
namespace {

template <UpWeight kType>
__global__ void __launch_bounds__(kFewThreads)
    absorb_kernel(const MlaUpProjection up, const __half* q, int rows, int block_rows, __half* out, int out_stride) {
  const int begin = static_cast<int>(blockIdx.y) * block_rows;
  absorb_rows<kType, __half>(up, {q, static_cast<long long>(up.heads) * up.nope, up.nope}, begin,
                             min(begin + block_rows, rows), out, out_stride);
}

template <UpWeight kType>
__global__ void __launch_bounds__(kFewThreads)
    unfold_kernel(const MlaUpProjection up, const __half* mixed, int rows, int block_rows, __half* out, long long ldo) {
  auto* const sums = dynamic_shared<float>();  // [2][parts][kFewRows][kUnfoldOutputs + kFewPad]
  constexpr int kStride = kUnfoldOutputs + kFewPad, kPart = kFewRows * kStride;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, i = lane % 4, part = warp / 2, tile = warp % 2;
  const int blocks = (up.v + kUnfoldOutputs - 1) / kUnfoldOutputs;
  const int head = static_cast<int>(blockIdx.x) / blocks;
  const int first = static_cast<int>(blockIdx.x) % blocks * kUnfoldOutputs;
  UnfoldWeights<kType, kUnfoldChunks, kUnfoldParts> weights;
  weights.load(up, head, first + 16 * tile, part, lane);
  const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16 * 2;
  const bool stores = first + column < up.v;
  const long long output = static_cast<long long>(head) * up.v + first + column;
  const long long stored = static_cast<long long>(head) * (up.nope + up.v) + up.nope + first + column;
  const float scale0 = stores ? FourWeights<kType>::scale(up, stored) : 0.0f;
  const float scale1 = stores ? FourWeights<kType>::scale(up, stored + 1) : 0.0f;
  wait_with_weights(weights.a);
  let_next_kernel_start();

  const int begin = static_cast<int>(blockIdx.y) * block_rows, end = min(begin + block_rows, rows);
  for (int r0 = begin; r0 < end; r0 += kFewRows) {
    float d[4] = {};
    weights.multiply(mixed + (static_cast<long long>(min(r0 + g, end - 1)) * up.heads + head) * up.latent, d);
    float* const all = sums + (r0 - begin) / kFewRows % 2 * kUnfoldParts * kPart;
    float* const mine = all + part * kPart + 2 * i * kStride + 16 * tile + g;
    for (int e = 0; e < 4; ++e) mine[e % 2 * kStride + e / 2 * 8] = d[e];
    __syncthreads();
    if (r0 + row < end && stores) {
      const float* const from = all + row * kStride + column;
      *reinterpret_cast<__half2*>(out + (r0 + row) * ldo + output) =
          __floats2half2_rn((from[0] + from[kPart]) * scale0, (from[1] + from[kPart + 1]) * scale1);
    }
  }
}

// Rows whose splits are merged by the kernel that unfolds: it reads a head's weights again for every row.
constexpr int kMaxMergedRows = 4;
void require(bool holds, const char* name, long long value, const char* expected) {
  if (holds) return;
  throw Error(ErrorKind::kUsage,
              std::string("CUDA kv_b_proj: ") + name + " " + std::to_string(value) + ", expected " + expected);
}

dim3 few_grid(const MlaUpProjection& up, int outputs, int outputs_of_block, int rows) {
  const int block = rows_of_block(rows);
  return dim3(static_cast<unsigned>(up.heads * ((outputs + outputs_of_block - 1) / outputs_of_block)),
              static_cast<unsigned>((rows + block - 1) / block));
}

template <bool kAbsorb>
void run_many(const ManyProduct& p, const char* what, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.up.heads * ((p.outputs + kManyOutputs - 1) / kManyOutputs)),
                  static_cast<unsigned>((p.rows + kManyRows - 1) / kManyRows));
  with_up_weight(p.up.type, [&](auto type) {
    constexpr UpWeight kType = decltype(type)::value;
    const LaunchShape shape{grid, kManyThreads, ManyCta<kAbsorb, kType>::kSharedBytes};
    backend::check_cuda(launch(project_many<kAbsorb, kType>, shape, stream, p), what);
  });
}

// The second launch of mla_attend_unfold() where it merges the splits of a plan.
bool unfold_splits_fits(const MlaUpProjection& up, const AttendPlan& plan) {
  const AttendCall& call = plan.args.call;
  return plan.args.splits > 1 && call.rows.count <= kMaxMergedRows && (!call.one_sequence || call.rows.count == 1) &&
         one_row_fits(up);
}

void unfold_splits(const MlaUpProjection& up, const AttendPlan& plan, __half* out, long long ldo, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(up.heads * kOneCluster), static_cast<unsigned>(plan.args.call.rows.count));
  with_up_weight(up.type, [&](auto type) {
    constexpr UpWeight kType = decltype(type)::value;
    const auto kernel = has_usual_sizes(up) ? unfold_splits_kernel<kType, true> : unfold_splits_kernel<kType, false>;
    // As the kernel ahead has it: an SM cannot divide its memory anew while that one runs on it.
    backend::check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                             cudaFuncAttributePreferredSharedMemoryCarveout, 100),
                        "mla_attend_unfold");
    const LaunchShape shape{grid, kOneThreads, static_cast<int>(sizeof(SplitsMemory<kType>)), kOneCluster};
    backend::check_cuda(launch(kernel, shape, stream, up, plan.args, out, ldo), "mla_attend_unfold");
  });
}

}  // namespace

void check_mla_projection(const MlaUpProjection& up, int rows) {
  require(up.latent >= 64 && up.latent % 64 == 0 && up.latent <= kMaxLatent, "latent", up.latent,
          "a multiple of 64, at most 512");
  require(up.nope >= 16 && up.nope % 16 == 0 && up.nope <= kMaxNope, "nope", up.nope, "a multiple of 16, at most 256");
  require(up.v >= 16 && up.v % 16 == 0, "v", up.v, "a multiple of 16");
  require(up.heads >= 1, "heads", up.heads, "1 or more");
  require(rows >= 1 && rows <= 65535 * kManyRows, "rows", rows, "1 or more");
}

void check_mla_output(const MlaUpProjection& up, long long ldo) {
  require(ldo >= static_cast<long long>(up.heads) * up.v && ldo % 8 == 0, "ldo", ldo,
          "a multiple of 8, at least heads * v");
}

void mla_absorb(const MlaUpProjection& up, const __half* q, int rows, __half* out, int out_stride,
                cudaStream_t stream) {
  check_mla_projection(up, rows);
  require(out_stride >= up.latent && out_stride % 8 == 0, "out_stride", out_stride,
          "a multiple of 8, at least the latent");
  if (rows > kMaxFewRows) {
    const long long heads = up.heads;
    run_many<true>({up, q, heads * up.nope, up.nope, out, heads * out_stride, out_stride, rows, up.latent, up.nope},
                   "mla_absorb of many rows", stream);
    return;
  }
  const dim3 grid = few_grid(up, up.latent, kAbsorbOutputs, rows);
  with_up_weight(up.type, [&](auto type) {
    backend::check_cuda(launch(absorb_kernel<decltype(type)::value>, {grid, kFewThreads, kAbsorbSharedBytes}, stream,
                               up, q, rows, rows_of_block(rows), out, out_stride),
                        "mla_absorb");
  });
}

void mla_unfold(const MlaUpProjection& up, const __half* mixed, int rows, __half* out, long long ldo,
                cudaStream_t stream) {
  check_mla_projection(up, rows);
  check_mla_output(up, ldo);
  if (rows > kMaxFewRows) {
    const long long heads = up.heads;
    run_many<false>({up, mixed, heads * up.latent, up.latent, out, ldo, up.v, rows, up.v, up.latent},
                    "mla_unfold of many rows", stream);
    return;
  }
  const dim3 grid = few_grid(up, up.v, kUnfoldOutputs, rows);
  with_up_weight(up.type, [&](auto type) {
    backend::check_cuda(launch(unfold_kernel<decltype(type)::value>, {grid, kFewThreads, kUnfoldSharedBytes}, stream,
                               up, mixed, rows, rows_of_block(rows), out, ldo),
                        "mla_unfold");
  });
}

void mla_attend_unfold(const MlaUpProjection& up, const AttendCall& call, void* workspace, __half* out, long long ldo,
                       cudaStream_t stream) {
  const int rows = call.rows.count;
  check_mla_projection(up, rows);
  check_mla_output(up, ldo);
  require(call.heads == up.heads, "heads of the attention", call.heads, "those of kv_b_proj");
  require(call.value_dim == up.latent, "value_dim of the attention", call.value_dim, "the latent");
  const AttendPlan plan = plan_attend(call, workspace);
  if (!unfold_splits_fits(up, plan)) {
    attend(call, workspace, stream);
    mla_unfold(up, call.out, rows, out, ldo, stream);
    return;
  }
  launch_attend_units(plan, stream);
  unfold_splits(up, plan, out, ldo, stream);
}

}  // namespace fairway::kernels::cuda
