// The launches of a linear layer: shapes, clusters, shared memory, scratch.
#include <algorithm>
#include <cstdint>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/trellis_band/cuda/ring_plan.cuh"
#include "kernels/trellis_band/cuda/walk_wide.cuh"
#include "kernels/trellis_linear/cuda/linear_few.cuh"
#include "kernels/trellis_linear/cuda/linear_inputs.cuh"
#include "kernels/trellis_linear/cuda/linear_kernels.cuh"
#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"
#include "kernels/trellis_linear/cuda/wide_linear.cuh"

namespace fairway::kernels::cuda {
namespace {

static_assert(kMaxShares == kMaxCluster);

struct LinearFacts {
  const char* name;
  bool integer;
  int rows;
};
constexpr LinearFacts kLinearFacts[kLinearPaths] = {
    {"int_few", true, 4}, {"half_few", false, 16}, {"int_4", true, 4},     {"int_8", true, 8},
    {"half_8", false, 8}, {"half_16", false, 16},  {"half_32", false, 32}, {"wg_128", false, kWideTokens}};

const LinearFacts& facts_of(LinearPath path) {
  return kLinearFacts[static_cast<int>(path)];
}

bool is_few(LinearPath path) {
  return path == LinearPath::kIntFew || path == LinearPath::kHalfFew;
}

constexpr int kMostGroups = 65535;  // along y of a grid

LinearKernel kernel_of(const LinearCall& call, LinearPath path) {
  const bool one_row = path == LinearPath::kInt4 && call.rows == 1 && gpu_features().clusters;
  if (one_row && count_bands(call) <= kMostGroups) return linear_one_row_kernel();
  const LinearFacts& f = facts_of(path);
  if (f.integer) return linear_int_kernel(f.rows);
  return f.rows <= 16 ? linear_half_kernel(f.rows) : linear_streamed_kernel();
}

// So few weights that up to 64 rows are faster in segments of 32, which are more work items.
bool is_small(const LinearCall& call) {
  return count_bands(call) * (call.in / kBand) < 200;
}

// Up to 16 rows the wide path is the fastest where its pairs of bands occupy the GPU once and have many inputs each, as
// q, k and v of Qwen3-30B-A3B.
bool suits_wide(const LinearCall& call) {
  const int bands = count_bands(call);
  return bands >= 32 && bands <= 64 && call.in >= 16 * kBand;
}

long long count_items(const LinearCall& call, int segment_rows) {
  return static_cast<long long>((call.rows + segment_rows - 1) / segment_rows) * count_bands(call);
}

// Shared memory of a CTA when `split` of them share an item.
struct SharedMemory {
  int blocks;  // of a CTA
  int stage_bytes, input_stride;
  int fixed;  // bytes beside the ring
};

SharedMemory shared_memory(const LinearCall& call, const LinearKernel& kernel, int split, bool clusters) {
  SharedMemory m{};
  m.blocks = (call.in / kBand + split - 1) / split;
  m.stage_bytes = coded_block_bytes(call.max_bits) + kernel.stage_row_bytes;
  m.input_stride = m.blocks * kernel.input.block_bytes + kernel.input.pad_bytes;
  m.fixed = kernel.shared_bytes + kernel.input.rows * m.input_stride;
  if (split > 1 && clusters)
    m.fixed += split * cluster_rows(kernel.rows, split) * kBand * static_cast<int>(sizeof(float));
  return m;
}

struct LinearPlan {
  int split;
  SharedMemory memory;
  int ring_stages;
  long long grid;
  long long cost;  // that of a block on an SM is kBlockCost, about
  bool alone;      // every CTA finds an SM of its own
};

// CTAs of clusters come to lie two on an SM while other SMs have none, and then share what it can issue. For one row a
// block then costs half as much again, about: of `o_proj` clusters of 6 that find SMs of their own, instead of 8 that
// do not, make a step of GLM-4.7-Flash 2.2 % faster (7 blocks a CTA instead of 5) and one of Qwen3-30B-A3B 0.8 % slower
// (6 instead of 4); of q, k and v clusters of 2 instead of 3 make the latter 2.5 % faster (8 instead of 6).
constexpr int kBlockCost = 20, kSharedBlockCost = 29;

// Whether all clusters find SMs of their own if a CTA asks for half of an SM's shared memory.
bool find_own_sms(const LinearKernel& kernel, int split, long long grid, int bytes) {
  const GpuFeatures features = gpu_features();
  if (split == 1 || !features.clusters || bytes >= features.shared_bytes / 2) return false;
  int clusters = 0;
  backend::check_cuda(count_clusters(kernel.run, kBandThreads, features.shared_bytes / 2, split, clusters),
                      "cudaOccupancyMaxActiveClusters");
  return grid <= static_cast<long long>(split) * clusters;
}

LinearPlan plan_split(const LinearCall& call, const LinearKernel& kernel, int split, int sms,
                      const GpuFeatures& features) {
  const long long items = count_items(call, kernel.rows);
  LinearPlan plan{split, shared_memory(call, kernel, split, features.clusters), 0, 0, 0, false};
  const SharedMemory& m = plan.memory;
  RingPlan ring = plan_ring(features.shared_bytes, kernel.ctas, m.fixed, m.stage_bytes, m.blocks);
  long long ctas = items * split, rounds = 1;
  // Without clusters, what the CTAs leave for each other has room for as many as run at once.
  if (split > 1 && !features.clusters && (ctas > static_cast<long long>(ring.ctas) * sms || items > kMostMeetings)) {
    return plan;
  }
  if (split == 1 && items > static_cast<long long>(ring.ctas) * sms) {  // go on from item to item
    ring = plan_ring(features.shared_bytes, kernel.ctas, m.fixed, m.stage_bytes, kMaxStages);
    ctas = static_cast<long long>(ring.ctas) * sms;
    rounds = (items + ctas - 1) / ctas;
  }
  plan.ring_stages = ring.stages;
  plan.grid = ctas;
  const long long ctas_of_sm = (ctas + sms - 1) / sms;
  plan.alone = find_own_sms(kernel, split, ctas, ring.stages * m.stage_bytes + m.fixed);
  const int block_cost = kernel.rows == 1 && split > 1 && !plan.alone ? kSharedBlockCost : kBlockCost;
  plan.cost = ctas_of_sm * (rounds * m.blocks * block_cost + (split > 1 ? kBlockCost : 0));  // to meet: a block, about
  if (ring.stages == 1 && m.blocks > 1) plan.cost *= 2;  // loads and products alternate
  return plan;
}

// Few items do not occupy the GPU: clusters share them as long as that makes the busiest SM's work less. Of plans that
// are equal the one with the fewest CTAs: it leaves room for those of the next kernel, whose weights can arrive
// meanwhile. ring_stages < 1 in the result: nothing fits.
LinearPlan best_plan(const LinearCall& call, const LinearKernel& kernel, int sms) {
  const GpuFeatures features = gpu_features();
  LinearPlan best{};
  for (int split = 1; split <= std::min(kMaxCluster, call.in / kBand); ++split) {
    const LinearPlan plan = plan_split(call, kernel, split, sms, features);
    if (plan.ring_stages >= 1 && (best.ring_stages < 1 || plan.cost < best.cost)) best = plan;
  }
  return best;
}

// Shared memory that a CTA asks for: if all clusters find SMs of their own, so much that no two CTAs fit on one. The
// first projections of one row of GLM-4.7-Flash take 3.3 us instead of 4.1. If they do not, some would wait for others.
int bytes_to_ask_for(const LinearPlan& plan, int bytes) {
  return plan.alone ? gpu_features().shared_bytes / 2 : bytes;  // and kSharedPerCta
}

// Rows of x, scaled and transformed, in fragment order.
struct StoreRows {
  const LinearArgs& a;

  __device__ void operator()(int input, int row, int k, const float (&v)[4]) const {
    store_fragment_order(reinterpret_cast<__half*>(linear_row(a, input, k / kBand, row)), v);
  }
};
__global__ void __launch_bounds__(kTransformThreads) transform_linear_inputs(const __grid_constant__ LinearArgs a) {
  transform_inputs(a, StoreRows{a});
}
__global__ void __launch_bounds__(32 * kMostNormWarps) norm_linear_inputs(const __grid_constant__ LinearArgs a) {
  norm_inputs(a, StoreRows{a});
}

// Numbers the different input scales of the matrices.
void number_inputs(LinearArgs& args) {
  const LinearCall& call = args.call;
  for (int i = 0; i < call.count; ++i) {
    int same = 0;
    while (call.outputs[same].matrix.suh != call.outputs[i].matrix.suh) ++same;
    args.input_of[i] = same < i ? args.input_of[same] : args.inputs++;
  }
}

void check_range(const std::string& name, const char* what, long long value, long long low, long long high,
                 int multiple) {
  if (value >= low && value <= high && value % multiple == 0) return;
  throw Error(ErrorKind::kUsage, name + ": " + what + " is " + std::to_string(value) + ", expected " +
                                     std::to_string(low) + ".." + std::to_string(high) +
                                     (multiple > 1 ? ", a multiple of " + std::to_string(multiple) : ""));
}

void check_call(const LinearCall& call, LinearPath path, const std::string& name) {
  constexpr int kMost = 1 << 28;  // counts of items and of blocks stay in an int
  check_range(name, "the number of rows", call.rows, 1, kMost / std::max(call.in / kBand, 1), 1);
  check_range(name, "the number of inputs", call.in, kBand, kMost, kBand);
  check_range(name, "the number of matrices", call.count, 1, kMaxLinearOutputs, 1);
  check_range(name, "the widest matrix", call.max_bits, 1, 8, 1);
  for (int i = 0; i < call.count; ++i) {
    const LinearOutput& o = call.outputs[i];
    check_range(name, "the number of outputs", o.out, kBand, kMost, kBand);
    check_range(name, "the number of outputs that are written", o.out_exact, 1, o.out, 1);
    check_range(name, "the width of a matrix", o.matrix.bits, 1, call.max_bits, 1);
  }
  check_range(name, "the number of work items", count_items(call, facts_of(path).rows), 1, kMost, 1);
  if (call.norm.x != nullptr) {
    check_range(name, "the number of inputs before padding", call.norm.n, 4, std::min(call.in, kMaxLinearNorm), 4);
    if (!linear_norm_legal(call.norm, call.in)) {
      throw Error(ErrorKind::kUsage, name + ": rows of the norm are not aligned to 16 bytes or overlap, strides of " +
                                         std::to_string(call.norm.ldx) + ", " + std::to_string(call.norm.ldadd) +
                                         " and " + std::to_string(call.norm.ldsum) + " elements");
    }
    if (!linear_takes_norm(call, path)) throw Error(ErrorKind::kUsage, name + ": it does not take a norm in front");
  } else if (reinterpret_cast<std::uintptr_t>(call.x) % 16 != 0 || call.ldx % 8 != 0) {
    throw Error(ErrorKind::kUsage, name + ": rows of x are not aligned to 16 bytes, a row stride of " +
                                       std::to_string(call.ldx) + " elements");
  }
  if (facts_of(path).integer && !call.all_mul1) {
    throw Error(ErrorKind::kUsage, name + ": it needs matrices that all use the codebook mul1");
  }
  const GpuFeatures features = gpu_features();
  if ((path == LinearPath::kWide128 && !features.wgmma) || (is_few(path) && !features.clusters)) {
    throw Error(ErrorKind::kUnsupported, name + ": it needs instructions that this GPU or its code does not have");
  }
  if (linear_path_legal(call, path)) return;
  if (is_few(path)) {
    throw Error(ErrorKind::kUsage, name + ": " + std::to_string(call.rows) + " rows of " + std::to_string(call.in) +
                                       " inputs and " + std::to_string(count_bands(call)) +
                                       " bands of outputs are more than it is for");
  }
  throw Error(ErrorKind::kUsage, name + ": " + std::to_string(call.in) +
                                     " inputs do not fit into shared memory; a path of two launches "
                                     "takes any number of them");
}

}  // namespace

const char* linear_path_name(LinearPath path) {
  return facts_of(path).name;
}

bool linear_path_legal(const LinearCall& call, LinearPath path) {
  if (facts_of(path).integer && !call.all_mul1) return false;
  const GpuFeatures features = gpu_features();
  if (path == LinearPath::kWide128) return features.wgmma;
  if (is_few(path)) return features.clusters && few_linear_fits(call, facts_of(path).integer);
  // Without clusters a CTA shares an item only where there are few of them.
  const int split = features.clusters ? std::min(kMaxCluster, call.in / kBand) : 1;
  const SharedMemory m = shared_memory(call, kernel_of(call, path), split, features.clusters);
  return plan_ring(features.shared_bytes, 1, m.fixed, m.stage_bytes, 1).stages >= 1;
}

bool linear_norm_legal(const LinearNorm& norm, int in) {
  const auto rows_are_aligned = [&](const float* p, long long stride) {
    return p == nullptr || (reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && stride % 4 == 0 && stride >= norm.n);
  };
  return norm.x != nullptr && norm.weight != nullptr && norm.n >= 4 && norm.n % 4 == 0 &&
         norm.n <= std::min(in, kMaxLinearNorm) && rows_are_aligned(norm.x, norm.ldx) &&
         rows_are_aligned(norm.add, norm.ldadd) && rows_are_aligned(norm.sum, norm.ldsum) &&
         rows_are_aligned(norm.weight, norm.n) && norm.sum != norm.x && (norm.sum == nullptr || norm.sum != norm.add);
}

bool linear_takes_norm(const LinearCall& call, LinearPath path) {
  if (path == LinearPath::kWide128 || path == LinearPath::kHalf32) return true;
  if (!linear_path_legal(call, path)) return false;
  if (is_few(path)) return true;
  const LinearKernel kernel = kernel_of(call, path);
  const int blocks = best_plan(call, kernel, sm_count()).memory.blocks;
  return std::min(call.rows, kernel.rows) * blocks <= kernel.norm_blocks &&
         (kernel.rows > 1 || call.in <= kMaxLinearNorm);
}

// The fastest of the paths on an H200 inside chains of layers of GLM-4.7-Flash and Qwen3-30B-A3B (`fairway bench
// selection --device cuda`). Matrices of one size prefer another path now and then, but a step whose linear layers all
// take the same one finds its code in the caches.
LinearPath linear_default_path(const LinearCall& call) {
  LinearPath path = LinearPath::kWide128;
  const bool integer = call.all_mul1 && call.rows <= 4;
  if (call.rows <= 16 && few_linear_pays(call, integer)) {
    path = integer ? LinearPath::kIntFew : LinearPath::kHalfFew;
  } else if (call.rows <= 8) {
    path = integer ? LinearPath::kInt4 : LinearPath::kHalf8;
  } else if (call.rows <= 16) {
    path = gpu_features().wgmma && suits_wide(call) ? LinearPath::kWide128 : LinearPath::kHalf16;
  } else if (call.rows <= 32 || (call.rows <= 64 && is_small(call))) {
    path = LinearPath::kHalf32;
  }
  return linear_path_legal(call, path) ? path : LinearPath::kHalf32;
}

std::size_t linear_workspace_bytes(int max_rows, int max_in, int max_matrices) {
  const std::size_t inputs = static_cast<std::size_t>(max_rows) *
                             static_cast<std::size_t>((max_in + kBand - 1) / kBand) * kTokenRowBytes *
                             static_cast<std::size_t>(max_matrices);
  if (gpu_features().clusters) return inputs;
  constexpr int kMostRows = 32, kMostCtas = 2;  // of a segment and of an SM, of any kernel that shares items
  return inputs + sizeof(float) * kMeetingFloats * static_cast<std::size_t>(kMostRows * kMostCtas * sm_count());
}

void trellis_linear(const LinearCall& call, LinearPath path, void* workspace, cudaStream_t stream) {
  const std::string name = std::string("CUDA linear layer, path ") + linear_path_name(path);
  check_call(call, path, name);
  int device = 0;
  backend::check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  require_gpu(device);
  LinearArgs args{};
  args.call = call;
  args.rows = static_cast<unsigned char*>(workspace);
  number_inputs(args);
  if (path == LinearPath::kWide128) {
    backend::check_cuda(run_wide_linear(args, stream), name);
    return;
  }
  if (is_few(path)) {
    backend::check_cuda(run_few_linear(args, facts_of(path).integer, stream), name);
    return;
  }
  const LinearKernel kernel = kernel_of(call, path);
  const int sms = sm_count();
  const LinearPlan plan = best_plan(call, kernel, sms);
  args.bands = count_bands(call);
  args.items = static_cast<int>(count_items(call, kernel.rows));
  args.groups = static_cast<int>(plan.grid) / plan.split;
  args.segment_rows = kernel.rows;
  args.share_items(plan.split);
  args.ring_stages = plan.ring_stages;
  args.stage_bytes = plan.memory.stage_bytes;
  args.input_stride = plan.memory.input_stride;
  cudaError_t status = cudaSuccess;
  if (kernel.input.rows == 0) {
    status = launch_inputs(call.norm.x != nullptr ? norm_linear_inputs : transform_linear_inputs, args, stream);
  }
  if (status == cudaSuccess) {
    const int bytes = bytes_to_ask_for(plan, plan.ring_stages * plan.memory.stage_bytes + plan.memory.fixed);
    const int cluster = gpu_features().clusters ? plan.split : 1;
    const auto ctas = static_cast<unsigned>(plan.grid), share = static_cast<unsigned>(plan.split);
    const dim3 grid = kernel.groups_along_y ? dim3(share, ctas / share) : dim3(ctas);
    const bool single = plan.split > 1 && args.items == args.groups && plan.ring_stages >= plan.memory.blocks;
    const auto run = single && kernel.run_single != nullptr ? kernel.run_single : kernel.run;
    status = launch(run, {grid, kBandThreads, bytes, cluster}, stream, args);
  }
  backend::check_cuda(status, name);
}

}  // namespace fairway::kernels::cuda
