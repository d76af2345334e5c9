// The kernel of both phases of the expert layer: items of 128 outputs, a warp that streams their coded weights into
// shared memory, eight that decode and multiply, and the epilogues.
#pragma once

#include "kernels/common/cuda/cluster.cuh"
#include "kernels/moe_swiglu/cuda/half_path.cuh"
#include "kernels/moe_swiglu/cuda/int_path.cuh"
#include "kernels/trellis_band/cuda/block_loader.cuh"

namespace fairway::kernels::cuda {

// Shared memory of a CTA: the stages of the ring, this, the input digits.
template <class Path>
struct alignas(16) BandShared {
  RingBarriers barriers;
  alignas(16) float inner[2][Path::kTokens][kInnerStride];
  alignas(16) float row[kBand];  // kDownDirect: this CTA's share of y
  alignas(16) typename Path::Shared path;
  int items;  // of the launch: registers are short where they are multiplied
};

template <class Path>
using PathLoader = BlockLoader<Path::kStreamsTokens ? Path::kTokens : 0>;

// The loading warp's run through one part.
template <class Path>
__device__ void load_part(const BandArgs& a, const Item& item, const Part& part, int matrix, RingCursor& ring) {
  PathLoader<Path> loader(*part.matrix, part.out, item.band, part.begin, item.count);
  loader.set_tokens([&](int token) {
    const int slot = item_slot<Path::kDirect>(a, item, token);
    const __half* row = a.phase == Phase::kGateUp
                            ? a.rows + static_cast<std::size_t>(input_row(a, slot, matrix)) * a.layer.hidden
                            : a.hidden + static_cast<std::size_t>(slot) * a.layer.max_intermediate;
    return row + part.begin * kBand;
  });
  loader.load(ring, 0, part.count);
}

template <class Path>
__device__ void load_items(const BandArgs& a, RingCursor ring) {
  // Weights of down may be fetched while the previous kernel still runs; what that kernel writes may not.
  if (Path::kStreamsTokens || a.phase == Phase::kGateUp) wait_for_previous_kernel();
  const int split = band_split<Path::kDirect>(a), rank = cluster_rank(split), items = item_count<Path::kDirect>(a);
  for (int index = blockIdx.x / split; index < items; index += a.item_step) {
    const Item item = get_item<Path::kDirect>(a, index);
    if (item.count == 0) continue;
    for (int p = 0; p < part_count<Path::kDirect>(a); ++p) {
      const Part part = get_part<Path::kDirect>(a, item, p, rank);
      if (part.count > 0) load_part<Path>(a, item, part, p, ring);
    }
    cluster_sync(split);
    cluster_sync(split);
  }
}

// v = four outputs of a token's band; `inner` is its sums in this CTA's shared memory, and in that of the first `split`
// CTAs of the cluster if split > 1.
__device__ __forceinline__ void finish_outputs(float* inner, int split, const __half* svh, float (&v)[4]) {
  const int lane = threadIdx.x & 31;
  float4 sum = *reinterpret_cast<const float4*>(inner + 4 * lane);
  if (split > 1) {
    sum = make_float4(0, 0, 0, 0);
    for (int r = 0; r < split; ++r) {
      const float4 one = *reinterpret_cast<const float4*>(in_shared_of(inner, r) + 4 * lane);
      sum = make_float4(sum.x + one.x, sum.y + one.y, sum.z + one.z, sum.w + one.w);
    }
  }
  v[0] = sum.x;
  v[1] = sum.y;
  v[2] = sum.z;
  v[3] = sum.w;
  hadamard128(v);
  scale_by(v, svh + 4 * lane);
}

template <class Path>
__device__ void finish_gate_up(const BandArgs& a, const Item& item, int rank, BandShared<Path>& shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, column = item.band * kBand;
  const int split = band_split<Path::kDirect>(a);
  for (int i = warp; i < item.count; i += kComputeWarps) {
    if (i % split != rank) continue;
    float gate[4], up[4];
    finish_outputs(shared.inner[0][i], split, item.expert->gate.svh + column, gate);
    finish_outputs(shared.inner[1][i], split, item.expert->up.svh + column, up);
#pragma unroll
    for (int j = 0; j < 4; ++j) up[j] *= gate[j] / (1.0f + __expf(-gate[j]));
    scale_by(up, item.expert->down.suh + column + 4 * lane);
    hadamard128(up);
    const std::size_t slot = static_cast<std::size_t>(item_slot<Path::kDirect>(a, item, i));
    store_fragment_order(a.hidden + slot * a.layer.max_intermediate + column, up);
  }
}

template <class Path>
__device__ void finish_down(const BandArgs& a, const Item& item, BandShared<Path>& shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, column = item.band * kBand;
  for (int i = warp; i < item.count; i += kComputeWarps) {
    const int slot = item_slot<Path::kDirect>(a, item, i);
    const float weight = slot_weight(a, slot);
    float v[4];
    finish_outputs(shared.inner[0][i], 1, item.expert->down.svh + column, v);
    float* out = a.slot_out + static_cast<std::size_t>(slot) * a.layer.hidden + column + 4 * lane;
    *reinterpret_cast<float4*>(out) = make_float4(v[0] * weight, v[1] * weight, v[2] * weight, v[3] * weight);
  }
}

// Adds this part, a share of one slot's rows, to the CTA's share of the token's output.
template <class Path>
__device__ void add_direct_part(const BandArgs& a, const Item& item, const Part& part, BandShared<Path>& shared) {
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x & 31;
  const float weight = slot_weight(a, part.slot);
  float v[4];
  finish_outputs(shared.inner[0][0], 1, part.matrix->svh + item.band * kBand, v);
#pragma unroll
  for (int j = 0; j < 4; ++j) shared.row[4 * lane + j] += weight * v[j];
}

template <class Path>
__device__ void finish_direct(const BandArgs& a, const Item& item, int rank, BandShared<Path>& shared) {
  if (rank != 0 || threadIdx.x >= kBand) return;
  float sum = 0;
  for (int r = 0; r < a.split; ++r) {
    const float* row = a.split == 1 ? shared.row : in_shared_of(shared.row, r);
    sum += row[threadIdx.x];
  }
  a.call.y[item.token * a.call.ldy + item.band * kBand + threadIdx.x] = sum;
}

template <class Path>
__device__ void compute_items(const BandArgs& a, RingCursor ring, unsigned char* input, BandShared<Path>& shared) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int split = band_split<Path::kDirect>(a), rank = cluster_rank(split);
  if (threadIdx.x == 0) shared.items = item_count<Path::kDirect>(a);
  consumer_sync<kComputeThreads>();
  for (int index = blockIdx.x / split; index < shared.items; index += a.item_step) {
    const Item item = get_item<Path::kDirect>(a, index);
    if (item.count == 0) continue;
    if (Path::kDirect && a.phase == Phase::kDownDirect && threadIdx.x < kBand) shared.row[threadIdx.x] = 0;
    for (int p = 0; p < part_count<Path::kDirect>(a); ++p) {
      const Part part = get_part<Path::kDirect>(a, item, p, rank);
      if (part.count == 0) continue;
      const bool keep_input = p == 1 && a.phase == Phase::kGateUp && item.expert->gate.suh == item.expert->up.suh;
      Path::compute(a, item, part, keep_input, ring, input, shared.path,
                    &shared.inner[a.phase == Phase::kGateUp ? p : 0][0][0]);
      if (Path::kDirect && a.phase == Phase::kDownDirect) add_direct_part<Path>(a, item, part, shared);
    }
    consumer_sync<kComputeThreads>();
    cluster_sync(split);
    if (a.phase == Phase::kGateUp) finish_gate_up<Path>(a, item, rank, shared);
    if (a.phase == Phase::kDown) finish_down<Path>(a, item, shared);
    if (Path::kDirect && a.phase == Phase::kDownDirect) finish_direct<Path>(a, item, rank, shared);
    cluster_sync(split);
    consumer_sync<kComputeThreads>();
  }
}

// Code without bulk copies takes more registers, so that two CTAs on an SM are the most.
template <class Path>
constexpr int kBandCtas = kCodeHasClusters ? Path::kMinCtas : 2;

template <class Path>
__global__ void __launch_bounds__(kBandThreads, kBandCtas<Path>) band_kernel(const __grid_constant__ BandArgs a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<BandShared<Path>*>(memory + a.ring_stages * a.stage_bytes);
  unsigned char* input = reinterpret_cast<unsigned char*>(&shared + 1);
  if (threadIdx.x == 0) ring_init(&shared.barriers, a.ring_stages, Path::kReleases);
  __syncthreads();
  const RingCursor ring{memory, &shared.barriers, a.ring_stages, a.stage_bytes};
  if (threadIdx.x >= kComputeThreads) {
    load_items<Path>(a, ring);
  } else {
    compute_items<Path>(a, ring, input, shared);
  }
}

}  // namespace fairway::kernels::cuda
