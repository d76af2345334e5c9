// The kernel of the linear layer: a warp that streams coded weights into shared memory, eight that decode and multiply,
// and the epilogue.
#pragma once

#include "kernels/common/cuda/cluster.cuh"
#include "kernels/trellis_band/cuda/block_loader.cuh"
#include "kernels/trellis_band/cuda/ring_plan.cuh"
#include "kernels/trellis_linear/cuda/linear_columns.cuh"
#include "kernels/trellis_linear/cuda/linear_meet.cuh"
#include "kernels/trellis_linear/cuda/linear_paths.cuh"

namespace fairway::kernels::cuda {

// Shared memory of a CTA: the stages of the ring, this, the transformed inputs, and in a cluster the sums of the rows
// that the CTA finishes, from every CTA.
template <class Path>
struct alignas(16) LinearShared {
  static constexpr bool kNorms = Path::kNormBlocks > 0;
  RingBarriers barriers;
  std::uint64_t sums_there;         // from all CTAs of the cluster; without clusters: the CTA finishes the item
  alignas(16) float scales[kBand];  // of the item's outputs
  alignas(16) float biases[kBand];
  float squares[kNorms ? Path::kNormBlocks : 1];                      // of the inputs' blocks before the norm
  float gathered_squares[kNorms ? kMaxCluster : 1][Path::kRows + 1];  // in a cluster: of a row, by CTA
  alignas(16) typename Path::Shared path;
};

template <class Path>
using LinearLoader = BlockLoader<Path::kStreamsRows ? Path::kRows : 0, true>;

// Which of the CTAs that share an item this one is.
__device__ __forceinline__ int linear_rank(const LinearArgs& a) {
  if (code_has_clusters()) return cluster_rank(a.split);
  return a.split == 1 ? 0 : static_cast<int>(blockIdx.x) % a.split;
}

// CTAs that finish the rows of an item in turn, and this one's place among them.
__device__ __forceinline__ int linear_finishers(const LinearArgs& a) {
  return code_has_clusters() ? a.split : 1;
}
__device__ __forceinline__ int linear_finisher(int rank) {
  return code_has_clusters() ? rank : 0;
}

// The ring runs ahead across items. Weights are fetched while the previous kernel still runs; transformed inputs are
// what that kernel writes, so they follow when it has ended.
template <class Path>
__device__ void load_linear_items(const LinearArgs& a, RingCursor ring) {
  const int rank = linear_rank(a), items = a.items, step = a.groups;
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

// Asks for the lines of `count` values, as far as the threads go.
template <class T>
__device__ __forceinline__ void prefetch_values(const T* values, int count) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  const int i = static_cast<int>(threadIdx.x) * kLine;
  if (i < count) prefetch_line(values + i);
}

// Constants that the first item needs right after the previous kernel has ended.
__device__ __forceinline__ void prefetch_inputs(const LinearNorm& norm, const LinearOutput& output,
                                                const LinearShare& share) {
  const int begin = share.begin * kBand, count = share.count * kBand;
  prefetch_values(output.matrix.suh + begin, count);
  if (norm.x != nullptr) prefetch_values(norm.weight + begin, min(count, norm.n - begin));
}

// Scale and bias of a column of the item: asked for before the previous kernel has ended, and put into shared memory
// when they have come, so that nobody waits for them when the sums are there.
struct LinearScale {
  __half scale;
  float bias;

  __device__ __forceinline__ void load(const LinearOutput& output, int band) {
    const int column = band * kBand + static_cast<int>(threadIdx.x);
    if (threadIdx.x >= kBand) return;
    scale = output.matrix.svh[column];
    bias = output.bias != nullptr && column < output.out_exact ? output.bias[column] : 0.0f;
  }
  template <class Path>
  __device__ __forceinline__ void store(LinearShared<Path>& shared) const {
    if (threadIdx.x >= kBand) return;
    shared.scales[threadIdx.x] = __half2float(scale);
    shared.biases[threadIdx.x] = bias;
  }
};

// The squares of a row's inputs in this CTA's share.
template <class Path>
__device__ __forceinline__ float share_squares(const LinearShared<Path>& shared, int row, int blocks) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < blocks; ++i) sum += shared.squares[row * blocks + i];
  return sum;
}

// Row slot * split + rank of an item, found without a division: there are few rows, and the code runs once.
struct LinearSlot {
  int slot = 0, rank;

  __device__ explicit LinearSlot(int row) : rank(row) {}
  __device__ void settle(int split) {
    for (; rank >= split; rank -= split) ++slot;
  }
};

// The CTAs of a cluster finish the rows in turn: each sends its sums of a row to the CTA whose row it is, into
// gathered[slot of the row][rank of the sender], and the squares of a row with a norm likewise.
template <class Path>
__device__ __forceinline__ void send_sums(const LinearArgs& a, const LinearItem& item, int rank, int blocks,
                                          LinearShared<Path>& shared, float4* gathered) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const bool norms = LinearShared<Path>::kNorms && a.call.norm.x != nullptr;
  if (threadIdx.x == 0 && rank < item.count) {
    int bytes = 0;
    for (int i = rank; i < item.count; i += a.split) bytes += a.split * (kBand * 4 + (norms ? 4 : 0));
    barrier_expect(&shared.sums_there, bytes);
  }
  LinearSlot place(warp);
#pragma unroll 1
  for (int i = warp; i < item.count; i += Path::kWarps, place.rank += Path::kWarps) {
    place.settle(a.split);
    send_to_cluster(gathered + (place.slot * a.split + rank) * 32 + lane, &shared.sums_there, place.rank,
                    Path::sums_of(shared.path, i, 4 * lane));
    if (norms && lane == 0) {
      send_to_cluster(&shared.gathered_squares[rank][place.slot], &shared.sums_there, place.rank,
                      share_squares(shared, i, blocks));
    }
  }
}

// The same without clusters, to memory.
template <class Path>
__device__ __forceinline__ void leave_sums(const LinearArgs& a, const LinearItem& item, int index, int rank, int blocks,
                                           const LinearShared<Path>& shared) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const bool norms = LinearShared<Path>::kNorms && a.call.norm.x != nullptr;
  const LinearSums sums = linear_sums(a, Path::kStreamsRows, index);
#pragma unroll 1
  for (int i = warp; i < item.count; i += kComputeWarps) {
    float* const to = sums.row(rank, i);
    *reinterpret_cast<float4*>(to + 4 * lane) = Path::sums_of(shared.path, i, 4 * lane);
    if (norms && lane == 0) to[kBand] = share_squares(shared, i, blocks);
  }
}
// v = the sums of row i over the item's CTAs. Returns the factor of its norm.
template <class Path>
__device__ __forceinline__ float add_left_sums(const LinearArgs& a, int index, int i, float (&v)[4]) {
  const LinearSums sums = linear_sums(a, Path::kStreamsRows, index);
  const bool norms = LinearShared<Path>::kNorms && a.call.norm.x != nullptr;
  float squares = 0;
  v[0] = v[1] = v[2] = v[3] = 0;
#pragma unroll 1
  for (int r = 0; r < a.split; ++r) {
    const float* const from = sums.row(r, i);
    const float4 one = __ldcg(reinterpret_cast<const float4*>(from + 4 * (threadIdx.x & 31)));
    v[0] += one.x;
    v[1] += one.y;
    v[2] += one.z;
    v[3] += one.w;
    if (norms) squares += __ldcg(from + kBand);
  }
  return norms ? norm_factor(a.call.norm, squares) : 1.0f;
}

// v = the sums of row i, which is slot `slot` of this CTA, over the cluster. Returns the factor of its norm.
template <class Path>
__device__ __forceinline__ float gather_sums(const LinearArgs& a, int index, int i, int slot, int blocks,
                                             const LinearShared<Path>& shared, const float4* gathered, float (&v)[4]) {
  if (!code_has_clusters() && a.split > 1) return add_left_sums<Path>(a, index, i, v);
  const bool norms = LinearShared<Path>::kNorms && a.call.norm.x != nullptr;
  float4 sum = make_float4(0, 0, 0, 0);
  float squares = 0;
  if (a.split == 1) {
    sum = Path::sums_of(shared.path, i, 4 * (threadIdx.x & 31));
    if (norms) squares = share_squares(shared, i, blocks);
  } else {
    gathered += slot * a.split * 32 + (threadIdx.x & 31);
#pragma unroll 2
    for (int r = 0; r < a.split; ++r) {
      const float4 one = gathered[r * 32];
      sum.x += one.x;
      sum.y += one.y;
      sum.z += one.z;
      sum.w += one.w;
      if (norms) squares += shared.gathered_squares[r][slot];
    }
  }
  v[0] = sum.x;
  v[1] = sum.y;
  v[2] = sum.z;
  v[3] = sum.w;
  return norms ? norm_factor(a.call.norm, squares) : 1.0f;
}

// old: what is added to the first row of the warp.
template <class Path>
__device__ __forceinline__ void finish_linear_item(const LinearArgs& a, const LinearItem& item, int index, int rank,
                                                   int blocks, LinearShared<Path>& shared, const float4* gathered,
                                                   float (&old)[4]) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, step = linear_finishers(a) * Path::kWarps;
  const LinearPlaces places{a.call.outputs[item.output], item.band * kBand + 4 * lane};
  int slot = warp;
#pragma unroll 1
  for (int i = linear_finisher(rank) + linear_finishers(a) * warp; i < item.count; i += step, slot += Path::kWarps) {
    if (code_has_clusters() && a.split > 1) barrier_wait_cluster(&shared.sums_there, 0);
    float v[4];
    const float factor = gather_sums(a, index, i, slot, blocks, shared, gathered, v);
    hadamard128(v);
    const float4 scale = *reinterpret_cast<const float4*>(shared.scales + 4 * lane);
    const float4 bias = *reinterpret_cast<const float4*>(shared.biases + 4 * lane);
    v[0] = v[0] * factor * scale.x + bias.x + old[0];
    v[1] = v[1] * factor * scale.y + bias.y + old[1];
    v[2] = v[2] * factor * scale.z + bias.z + old[2];
    v[3] = v[3] * factor * scale.w + bias.w + old[3];
    places.store(item.first_row + i, v);
    if (i + step < item.count) places.load_old(item.first_row + i + step, old);
  }
}

template <class Path>
__device__ void compute_linear_items(const LinearArgs& a, RingCursor ring, [[maybe_unused]] unsigned char* input,
                                     LinearShared<Path>& shared, float4* gathered) {
  const int rank = linear_rank(a), items = a.items, step = a.groups;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const LinearShare share = linear_share(a, rank);
  int index = blockIdx.x / a.split;
  LinearItem item = get_linear_item(a, index);
  LinearScale scale;
  scale.load(a.call.outputs[item.output], item.band);
  if constexpr (!Path::kStreamsRows) prefetch_inputs(a.call.norm, a.call.outputs[item.output], share);
  wait_for_previous_kernel();
  let_next_kernel_start();
  [[maybe_unused]] int staged_row = -1, staged_input = 0;  // what `input` holds
#pragma unroll 1
  while (true) {
    const LinearOutput& output = a.call.outputs[item.output];
    float old[4] = {};
    const int own = linear_finisher(rank) + linear_finishers(a) * warp;
    if (!Path::kStreamsRows && own < item.count) {
      LinearPlaces{output, item.band * kBand + 4 * lane}.load_old(item.first_row + own, old);
    }
    if constexpr (!Path::kStreamsRows) {
      const int input_number = a.input_of[item.output];
      if (staged_row != item.first_row || staged_input != input_number) {
        if (staged_row >= 0) {
          Path::clear(shared.path);
          consumer_sync<kComputeThreads>();
        }
        // The first band of a segment is multiplied by a CTA that has nothing of that segment yet.
        const bool stores_sum = item.output == 0 && item.band == 0;
        const LinearInput in{item.first_row, item.count, share, output.matrix.suh, stores_sum};
        Path::prepare(a, in, input, shared.squares, shared.path);
        staged_row = item.first_row;
        staged_input = input_number;
      }
    }
    scale.store(shared);
    Path::multiply(a, output.matrix, share.count, ring, input, shared.path);
    if (a.split > 1) {
      if (code_has_clusters()) {
        cluster_wait();  // the others have started
        send_sums(a, item, rank, share.count, shared, gathered);
      } else {
        leave_sums(a, item, index, rank, share.count, shared);
        if (!is_last_of_item(a, index, reinterpret_cast<int*>(&shared.sums_there))) break;
      }
    }
    if (Path::kStreamsRows && own < item.count) {  // not before: it would cost registers that the loop needs
      LinearPlaces{output, item.band * kBand + 4 * lane}.load_old(item.first_row + own, old);
    }
    finish_linear_item<Path>(a, item, index, rank, share.count, shared, gathered, old);
    index += step;
    if (index >= items) break;
    consumer_sync<kComputeThreads>();
    item = get_linear_item(a, index);
    scale.load(a.call.outputs[item.output], item.band);
  }
}

template <class Path>
__global__ void __launch_bounds__(kBandThreads, Path::kMinCtas) linear_kernel(const __grid_constant__ LinearArgs a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<LinearShared<Path>*>(memory + a.ring_stages * a.stage_bytes);
  unsigned char* input = reinterpret_cast<unsigned char*>(&shared + 1);
  if (code_has_clusters() && threadIdx.x == 0) barrier_init(&shared.sums_there, 1);
  ring_init_by_warps(&shared.barriers, a.ring_stages, kComputeWarps, 1, kBandThreads / 32);
  if constexpr (!Path::kStreamsRows) Path::clear(shared.path);
  __syncthreads();
  if (code_has_clusters() && a.split > 1) cluster_arrive();  // waited for before the first sums are sent
  const RingCursor ring{memory, &shared.barriers, a.ring_stages, a.stage_bytes};
  if (threadIdx.x >= kComputeThreads) {
    load_linear_items<Path>(a, ring);
    __syncwarp();
    if (code_has_clusters() && a.split > 1) cluster_wait();
  } else {
    compute_linear_items<Path>(a, ring, input, shared,
                               reinterpret_cast<float4*>(input + Path::kInput.rows * a.input_stride));
  }
}

}  // namespace fairway::kernels::cuda
