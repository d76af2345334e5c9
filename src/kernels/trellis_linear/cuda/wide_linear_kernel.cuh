// The wide kernel of the linear layer: a decode is shared by up to 128 rows. An item is two neighbouring bands of one
// matrix for one segment of rows; a cluster of `split` CTAs may share one by inputs, and handles no other.
#pragma once

#include "kernels/common/cuda/cluster.cuh"
#include "kernels/common/cuda/hidden.cuh"
#include "kernels/trellis_band/cuda/wide_band.cuh"
#include "kernels/trellis_linear/cuda/linear_args.cuh"
#include "kernels/trellis_linear/cuda/linear_columns.cuh"

namespace fairway::kernels::cuda {

struct WideLinearArgs {
  LinearArgs linear;  // segment_rows is a multiple of eight; rows: [inputs] of panels of call.rows rows
  int pairs;          // of bands, of all matrices
  int items;          // pairs times segments
  int groups;         // of CTAs that handle an item together
  int share_panels;   // that one of them multiplies; the last one may have fewer
  WideStage stage;
};

struct alignas(16) WideLinearShared {
  RingBarriers barriers;
  alignas(16) float scales[kWideHalves][kBand];  // of the item's outputs, times kHadamardScale
  alignas(16) float biases[kWideHalves][kBand];
  WideSums sums;
};

__host__ __device__ __forceinline__ int band_pairs(const LinearOutput& output) {
  return (output.out / kBand + 1) / 2;
}

// The bands of a segment of rows come one after the other. none: 0, hidden where what is known of the first output is
// not to be kept in registers.
__device__ __forceinline__ LinearItem get_wide_linear_item(const WideLinearArgs& a, int index, int none = 0) {
  LinearItem item{};
  item.output = none;
  item.first_row = index / a.pairs * a.linear.segment_rows;
  item.count = min(a.linear.segment_rows, a.linear.call.rows - item.first_row);
  int pair = index - index / a.pairs * a.pairs;
  for (; pair >= band_pairs(a.linear.call.outputs[item.output]); ++item.output) {
    pair -= band_pairs(a.linear.call.outputs[item.output]);
  }
  item.band = 2 * pair;
  return item;
}
__device__ __forceinline__ int bands_of(const WideLinearArgs& a, const LinearItem& item) {
  return min(kWideHalves, a.linear.call.outputs[item.output].out / kBand - item.band);
}

// The panels that one CTA of a cluster multiplies.
__device__ __forceinline__ LinearShare wide_share(const WideLinearArgs& a, int rank, int in) {
  const int begin = rank * a.share_panels;
  return {begin, min(a.share_panels, in / kWidePanel - begin)};
}

// Weights are fetched while the previous kernel still runs, rows when it has ended. What is the same for all items is
// found again for each: this warp has few registers.
__device__ __forceinline__ void load_wide_linear_items(const WideLinearArgs& a, RingCursor ring) {
#pragma unroll 1
  for (int index = static_cast<int>(blockIdx.x) / a.linear.split; index < a.items; index += a.groups) {
    const LinearItem item = get_wide_linear_item(a, hidden(index), hidden(0));
    const LinearOutput& output = a.linear.call.outputs[item.output];
    const int in = hidden(a.linear.call.in), rows = hidden(a.linear.call.rows);
    const LinearShare share = wide_share(a, hidden(cluster_rank(a.linear.split)), in);
    WideLoader loader;
    for (int half = 0; half < bands_of(a, item); ++half) {
      loader.set_words(a.stage, half, output.matrix, output.out, item.band + half, share.begin);
    }
    const std::size_t set_size = static_cast<std::size_t>(rows) * static_cast<unsigned>(in);
    loader.set_inputs(0,
                      reinterpret_cast<const __half*>(a.linear.rows) +
                          static_cast<unsigned>(a.linear.input_of[item.output]) * set_size,
                      rows, item.first_row, item.count, share.begin);
    loader.add_up();
    int done = 0;
    if (index < a.groups) {  // the first one
      done = loader.load_ahead(ring, share.count);
      wait_for_previous_kernel();
    }
    loader.load(ring, done, share.count);
  }
}

// load_octet() of the sum over the CTAs of the cluster.
__device__ __forceinline__ void add_octets(float* row, int split, int lane, float (&v)[kOctetElements]) {
#pragma unroll
  for (int i = 0; i < kOctetElements; ++i) v[i] = 0;
#pragma unroll 1
  for (int r = 0; r < split; ++r) {
    const float* const remote = in_shared_of(row, r);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 one = *reinterpret_cast<const float4*>(remote + octet_element(lane, i));
      v[4 * i] += one.x;
      v[4 * i + 1] += one.y;
      v[4 * i + 2] += one.z;
      v[4 * i + 3] += one.w;
    }
  }
}

// Scales and biases of the item, so that nobody waits for them when the sums are there.
__device__ __forceinline__ void stage_scales(const WideLinearArgs& a, const LinearItem& item,
                                             WideLinearShared& shared) {
  const int half = static_cast<int>(threadIdx.x) / kBand, k = static_cast<int>(threadIdx.x) % kBand;
  if (half >= bands_of(a, item)) return;
  const LinearOutput& output = a.linear.call.outputs[item.output];
  const int column = (item.band + half) * kBand + k;
  shared.scales[half][k] = __half2float(output.matrix.svh[column]) * kHadamardScale;
  shared.biases[half][k] = output.bias != nullptr && column < output.out_exact ? output.bias[column] : 0.0f;
}

// Four rows of one band, whose sums are the rows `four` of `sums`.
__device__ __forceinline__ void finish_four_rows(const WideLinearArgs& a, int index, int first, int half, int four,
                                                 WideLinearShared& shared) {
  const LinearItem item = get_wide_linear_item(a, index);
  const LinearOutput& output = a.linear.call.outputs[item.output];
  const int lane = hidden_thread() & 31, row = 4 * four + lane / 8;
  float v[kOctetElements];
  if (a.linear.split == 1) {
    load_octet(shared.sums.values[half][row], lane, v);
  } else {
    add_octets(&shared.sums.values[half][row][0], a.linear.split, lane, v);
  }
  hadamard128_by_octet(v);
  scale_octet(v, shared.scales[half], lane);
  if (first + row >= item.count) return;
  const int column = (item.band + half) * kBand;
  // Two of the lane's quads at a time: for more, the registers that the later rows' sums leave do not suffice.
  constexpr int kQuads = 2;
#pragma unroll
  for (int begin = 0; begin < 4; begin += kQuads) {
    float old[kQuads][4];
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const LinearPlaces places{output, column + octet_element(lane, begin + i)};
      places.load_old(item.first_row + first + row, old[i]);
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int element = octet_element(lane, begin + i);
      const float* const bias = &shared.biases[half][element];
#pragma unroll
      for (int j = 0; j < 4; ++j) old[i][j] += v[4 * (begin + i) + j] + bias[j];
      LinearPlaces{output, column + element}.store(item.first_row + first + row, old[i]);
    }
  }
}

// The rows from `first` on whose sums are there: four a warp at a time, of one band. The CTAs of a cluster have every
// `split`-th of these fours. What is known of the item is found again for each, and not kept.
__device__ __forceinline__ void finish_wide_linear(const WideLinearArgs& a, int index, int first, int rank,
                                                   WideLinearShared& shared) {
  const LinearItem item = get_wide_linear_item(a, index);
  const int bands = bands_of(a, item), fours = (min(item.count - first, kWideRound) + 3) / 4;
#pragma unroll 1
  for (int unit = hidden_thread() >> 5;; unit += kWideWarps) {
    const int four = rank + a.linear.split * (unit / bands);
    if (four >= fours) break;
    finish_four_rows(a, hidden(index), first, unit % bands, four, shared);
    __syncwarp();
  }
}

template <bool kAllMul1>
__device__ __forceinline__ void compute_wide_linear_items(const WideLinearArgs& a, RingCursor ring,
                                                          WideLinearShared& shared) {
  const int split = a.linear.split, rank = cluster_rank(split);
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int index = static_cast<int>(blockIdx.x) / split; index < a.items; index += a.groups) {
    float acc[kWgmmaSums];
    const LinearItem item = get_wide_linear_item(a, index);
    const int stages = wide_share(a, rank, a.linear.call.in).count;
    stage_scales(a, item, shared);
    if (wide_half() < bands_of(a, item)) {
      const TrellisRef& m = a.linear.call.outputs[item.output].matrix;
      multiply_wide<kAllMul1>(ring, {m.bits, m.codebook}, stages, item.count, wide_operands(a.stage, m.bits), acc);
    } else {
      skip_stages(ring, stages);
    }
    const int count = item.count;
#pragma unroll 1
    for (int row = 0; row < count; row += kWideRound) {
      store_wide_sums(acc, shared.sums);
      consumer_sync<kWideComputeThreads>();
      cluster_sync(split);
      finish_wide_linear(a, index, row, rank, shared);
      cluster_sync(split);
      consumer_sync<kWideComputeThreads>();
    }
  }
}

template <bool kAllMul1>
__device__ __forceinline__ void run_wide_linear_cta(const WideLinearArgs& a) {
  unsigned char* const memory = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<WideLinearShared*>(memory + a.linear.ring_stages * a.stage.bytes());
  if (threadIdx.x == 0) ring_init(&shared.barriers, a.linear.ring_stages, kWideWarps);
  __syncthreads();
  const RingCursor ring{memory, &shared.barriers, a.linear.ring_stages, a.stage.bytes()};
  if (threadIdx.x >= kWideComputeThreads) {
    give_registers<32>();
    if (threadIdx.x < kWideComputeThreads + 32) load_wide_linear_items(a, ring);
    __syncwarp();
    // The CTAs of a cluster have one item.
    const LinearItem item = get_wide_linear_item(a, static_cast<int>(blockIdx.x) / a.linear.split);
    for (int row = 0; row < item.count; row += kWideRound) {
      cluster_sync(a.linear.split);
      cluster_sync(a.linear.split);
    }
  } else {
    take_registers<112>();
    compute_wide_linear_items<kAllMul1>(a, ring, shared);
  }
}

template <bool kAllMul1>
__global__ void __launch_bounds__(kWideCtaThreads, 1) wide_linear_kernel(const __grid_constant__ WideLinearArgs a) {
  if constexpr (kCodeHasWgmma) {
    run_wide_linear_cta<kAllMul1>(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
