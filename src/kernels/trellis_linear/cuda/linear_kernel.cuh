// The kernel of the linear layer: a warp that streams coded weights into shared memory, eight that decode and multiply,
// and the epilogue.
#pragma once

#include "kernels/trellis_band/cuda/block_loader.cuh"
#include "kernels/trellis_band/cuda/cluster.cuh"
#include "kernels/trellis_linear/cuda/linear_columns.cuh"
#include "kernels/trellis_linear/cuda/linear_paths.cuh"

namespace fairway::kernels::cuda {

// Shared memory of a CTA: the stages of the ring, this, the transformed inputs, and in a cluster the sums of the rows
// that the CTA finishes, from every CTA.
template <class Path>
struct alignas(16) LinearShared {
  RingBarriers barriers;
  std::uint64_t sums_there;  // from all CTAs of the cluster
  NormParts norm;
  alignas(16) float inner[Path::kRows][kInnerStride];
  alignas(16) typename Path::Shared path;
};

template <class Path>
using LinearLoader = BlockLoader<Path::kStreamsRows ? Path::kRows : 0, true>;

// Every thread of a cluster comes here once, before the first sums are sent: their barriers are ready then.
__device__ __forceinline__ void begin_cluster(const LinearArgs& a) {
  __syncwarp();
  if (a.split > 1) cluster_meet();
}

// The ring runs ahead across items. Weights are fetched while the previous kernel still runs; transformed inputs are
// what that kernel writes, so they follow when it has ended. The CTAs of a cluster meet when they have begun.
template <class Path>
__device__ void load_linear_items(const LinearArgs& a, RingCursor ring) {
  const int rank = cluster_rank(a.split), items = linear_items(a), step = gridDim.x / a.split;
  const LinearShare share = linear_share(a, rank);
  bool first = true;
  for (int index = blockIdx.x / a.split; index < items; index += step) {
    const LinearItem item = get_linear_item(a, index);
    const LinearOutput& output = a.call.outputs[item.output];
    LinearLoader<Path> loader(output.matrix, output.out, item.band, share.begin, item.count);
    if constexpr (Path::kStreamsRows) {
      loader.set_token_blocks(linear_row(a, a.input_of[item.output], share.begin, item.first_row),
                              static_cast<std::size_t>(a.call.rows) * kTokenRowBytes);
    }
    int done = 0;
    if (first) {
      first = false;
      done = min(ring.stage_count, share.count);
      RingCursor ahead = ring;
      for (int block = 0; block < done; ++block, ahead.advance()) loader.load_weights(ahead);
      begin_cluster(a);
      if constexpr (Path::kStreamsRows) {
        wait_for_previous_kernel();
        for (int block = 0; block < done; ++block, ring.advance()) loader.load_tokens(ring, block);
      } else {
        ring = ahead;
      }
    }
    loader.load(ring, done, share.count);
  }
}

// Asks for the lines of `count` values.
template <class T>
__device__ __forceinline__ void prefetch_values(const T* values, int count) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  for (int i = static_cast<int>(threadIdx.x) * kLine; i < count; i += kComputeThreads * kLine) {
    prefetch_line(values + i);
  }
}

// Constants that the first item needs right after the previous kernel has ended.
__device__ __forceinline__ void prefetch_scales(const LinearNorm& norm, const LinearOutput& output,
                                                const LinearItem& item, const LinearShare& share, bool inputs) {
  const int begin = share.begin * kBand, count = share.count * kBand;
  if (inputs) prefetch_values(output.matrix.suh + begin, count);
  if (inputs && norm.x != nullptr) prefetch_values(norm.weight + begin, min(count, norm.n - begin));
  const int column = item.band * kBand + static_cast<int>(threadIdx.x) * 32;
  if (threadIdx.x >= 4) return;
  prefetch_line(output.matrix.svh + column);
  if (output.bias != nullptr && column < output.out_exact) prefetch_line(output.bias + column);
}

// The CTAs of a cluster finish the rows in turn: each sends its sums of a row to the CTA whose row it is, into
// gathered[rank of the sender][row / split].
template <class Path>
__device__ void send_sums(const LinearArgs& a, const LinearItem& item, int rank, LinearShared<Path>& shared,
                          float4* gathered) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int own = (item.count - rank + a.split - 1) / a.split;
  if (threadIdx.x == 0 && own > 0) barrier_expect(&shared.sums_there, own * a.split * kBand * 4);
  for (int i = warp; i < item.count; i += kComputeWarps) {
    send_to_cluster(gathered + (rank * cluster_rows(a.segment_rows, a.split) + i / a.split) * 32 + lane,
                    &shared.sums_there, i % a.split, *reinterpret_cast<const float4*>(shared.inner[i] + 4 * lane));
  }
}

template <class Path>
__device__ void finish_linear_item(const LinearArgs& a, const LinearItem& item, int rank, LinearShared<Path>& shared,
                                   float4* gathered) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if (a.split > 1) send_sums(a, item, rank, shared, gathered);
  if (rank + a.split * warp >= item.count) return;
  const LinearColumns columns(a.call.outputs[item.output], item.band * kBand + 4 * lane);
  for (int i = rank + a.split * warp; i < item.count; i += a.split * kComputeWarps) {
    float old[4], v[4];
    columns.load_old(item.first_row + i, old);
    if (a.split > 1) {
      barrier_wait_cluster(&shared.sums_there, 0);
      v[0] = v[1] = v[2] = v[3] = 0;
      for (int r = 0; r < a.split; ++r) {
        const float4 one = gathered[(r * cluster_rows(a.segment_rows, a.split) + i / a.split) * 32 + lane];
        v[0] += one.x;
        v[1] += one.y;
        v[2] += one.z;
        v[3] += one.w;
      }
    } else {
      *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(shared.inner[i] + 4 * lane);
    }
    hadamard128(v);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = v[j] * columns.scale[j] + columns.bias[j] + old[j];
    columns.store(item.first_row + i, v);
  }
}

template <class Path>
__device__ void compute_linear_items(const LinearArgs& a, RingCursor ring, [[maybe_unused]] unsigned char* input,
                                     LinearShared<Path>& shared, float4* gathered) {
  const int rank = cluster_rank(a.split), items = linear_items(a), step = gridDim.x / a.split;
  const LinearShare share = linear_share(a, rank);
  int index = blockIdx.x / a.split;
  const LinearItem first = get_linear_item(a, index);
  prefetch_scales(a.call.norm, a.call.outputs[first.output], first, share, !Path::kStreamsRows);
  if constexpr (!Path::kStreamsRows) Path::clear(shared.path);
  begin_cluster(a);
  wait_for_previous_kernel();
  let_next_kernel_start();
  [[maybe_unused]] int staged_row = -1, staged_input = 0;  // what `input` holds
  for (; index < items; index += step) {
    const LinearItem item = get_linear_item(a, index);
    const TrellisRef& matrix = a.call.outputs[item.output].matrix;
    if constexpr (!Path::kStreamsRows) {
      const int input_number = a.input_of[item.output];
      if (staged_row != item.first_row || staged_input != input_number) {
        if (staged_row >= 0) Path::clear(shared.path);
        // The first band of a segment is multiplied by a CTA that has nothing of that segment yet.
        const bool stores_sum = item.output == 0 && item.band == 0;
        Path::prepare(a, {item.first_row, item.count, share, matrix.suh, stores_sum}, input, shared.norm, shared.path);
        staged_row = item.first_row;
        staged_input = input_number;
      }
    }
    Path::multiply(a, matrix, item.count, share.count, ring, input, shared.path, &shared.inner[0][0]);
    finish_linear_item<Path>(a, item, rank, shared, gathered);
    consumer_sync<kComputeThreads>();
  }
}

template <class Path>
__global__ void __launch_bounds__(kBandThreads, Path::kMinCtas) linear_kernel(const __grid_constant__ LinearArgs a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<LinearShared<Path>*>(memory + a.ring_stages * a.stage_bytes);
  unsigned char* input = reinterpret_cast<unsigned char*>(&shared + 1);
  if (threadIdx.x == 0) {
    barrier_init(&shared.sums_there, 1);
    ring_init(&shared.barriers, a.ring_stages, kComputeWarps);
  }
  __syncthreads();
  const RingCursor ring{memory, &shared.barriers, a.ring_stages, a.stage_bytes};
  if (threadIdx.x >= kComputeThreads) {
    load_linear_items<Path>(a, ring);
  } else {
    compute_linear_items<Path>(a, ring, input, shared,
                               reinterpret_cast<float4*>(input + Path::kInput.rows * a.input_stride));
  }
}

}  // namespace fairway::kernels::cuda
