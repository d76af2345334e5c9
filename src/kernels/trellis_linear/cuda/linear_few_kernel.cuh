// The kernel of linear layers of few rows and few weights: all coded weights of a CTA's share are on their way before
// the kernel in front has ended, and sixteen warps multiply them, so that a scheduler has four to choose from. Its code
// is short, because most of it runs once.
#pragma once

#include "kernels/trellis_linear/cuda/linear_few_paths.cuh"
#include "kernels/trellis_linear/cuda/linear_kernel.cuh"
#include "kernels/trellis_linear/cuda/linear_read.cuh"

namespace fairway::kernels::cuda {

// A warp asks for all coded weights of the share, a lane for a tile row.
__device__ __forceinline__ void load_few(RingBarriers& barriers, const LinearOutput& output, int band,
                                         const LinearShare& share, unsigned char* coded, int stage_bytes) {
  const TrellisRef& m = output.matrix;
  const int lane = threadIdx.x & 31, band_bytes = 2 * kBand * m.bits;
  const std::size_t row_bytes = static_cast<std::size_t>(2 * output.out) * m.bits;
  const unsigned char* words = m.words + static_cast<std::size_t>(share.begin) * kBandTiles * row_bytes +
                               static_cast<std::size_t>(band) * band_bytes;
  if (lane < share.count) barrier_expect(&barriers.full[lane], kBandTiles * band_bytes);
  __syncwarp();
#pragma unroll 1
  for (int row = lane; row < share.count * kBandTiles; row += 32) {
    const int block = row / kBandTiles;
    bulk_load(coded + block * stage_bytes + (row & (kBandTiles - 1)) * band_bytes, words + row * row_bytes, band_bytes,
              &barriers.full[block]);
  }
}

// The units of a warp: block `block` of row `row`.
struct FewUnit {
  int unit, row = 0, block;

  __device__ __forceinline__ explicit FewUnit(int blocks)
      : unit(static_cast<int>(threadIdx.x >> 5)), block(static_cast<int>(threadIdx.x >> 5)) {
    settle(blocks);
  }
  __device__ __forceinline__ void settle(int blocks) {
    for (; block >= blocks; block -= blocks) ++row;
  }
  __device__ __forceinline__ void next(int blocks) {
    unit += kFewWarps;
    block += kFewWarps;
    settle(blocks);
  }
};

// The inputs of the item, transformed, where the tensor instructions read them. held: [units][32 lanes]. scales: of
// the warp's first unit.
template <class Path>
__device__ __forceinline__ void stage_few(const LinearArgs& a, const LinearInput& in, InputScales scales,
                                          LinearShared<Path>& shared, unsigned char* input, float4* held) {
  const int lane = threadIdx.x & 31, blocks = in.share.count, units = in.rows * blocks;
  const int begin = in.share.begin * kBand + 4 * lane;
  held += lane;
  FewUnit u(blocks);
  InputPart x;
  constexpr bool kAhead = Path::kRows > 8;  // a warp has several units: the next one's inputs come meanwhile
  if (kAhead && u.unit < units) x.load(a, in, u.row, begin + u.block * kBand);
#pragma unroll 1
  while (u.unit < units) {
    if (!kAhead) x.load(a, in, u.row, begin + u.block * kBand);
    float v[4];
    scales.apply(x.v, v);
    float squares = x.squares;
    const FewUnit now = u;
    u.next(blocks);
    if (u.unit < units) {
      scales.load(a, in.suh, begin + u.block * kBand);
      if (kAhead) x.load(a, in, u.row, begin + u.block * kBand);
    }
    squares = warp_sum(squares);  // its steps hide among those of the transform
    hadamard128(v);
    if (lane == 0) shared.squares[now.row * blocks + now.block] = squares;
    held[32 * now.unit] = make_float4(v[0], v[1], v[2], v[3]);
    const float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    const int bits = __reduce_max_sync(0xFFFFFFFFu, __float_as_int(largest));  // ordered as the floats are
    if (lane == 0) atomicMax(&shared.path.largest[now.row], bits);
  }
  __syncthreads();
  if (threadIdx.x < static_cast<unsigned>(in.rows)) Path::set_unit(shared.path, static_cast<int>(threadIdx.x));
#pragma unroll 1
  for (u = FewUnit(blocks); u.unit < units; u.next(blocks)) {
    const float factor = Path::factor(shared.path, u.row);
    const float4 v = held[32 * u.unit];
    Path::store(shared.path, u.row, input + Path::kColumns * u.row * a.input_stride + u.block * Path::kBlockBytes,
                a.input_stride, make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor));
  }
  __syncthreads();
}

template <class Path>
__device__ __forceinline__ void run_few_linear_cta(const LinearArgs& a) {
  unsigned char* const coded = dynamic_shared<unsigned char>();
  auto& shared = *reinterpret_cast<LinearShared<Path>*>(coded + a.ring_stages * a.stage_bytes);
  const int rank = linear_rank(a), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int index = static_cast<int>(blockIdx.x) / a.split;
  const LinearShare share = linear_share(a, rank);
  const LinearItem item = get_linear_item(a, index);
  const LinearOutput& output = a.call.outputs[item.output];
  if (threadIdx.x == 0) barrier_init(&shared.sums_there, 1);
  ring_init_by_warps(&shared.barriers, share.count, 1, 1, static_cast<int>(blockDim.x >> 5));
  if (warp == 1) {
    if (lane < Path::kRows) Path::clear(shared.path, lane);
  }
  LinearScale scale;
  scale.load(output, item.band);
  InputScales scales;
  scales.load(a, output.matrix.suh, (share.begin + FewUnit(share.count).block) * kBand + 4 * lane);
  const LanePlace place(output.matrix.bits, lane);
  __syncthreads();
  if (warp == kFewWarps - 1) {  // it takes a microsecond, for which the others do not wait
    load_few(shared.barriers, output, item.band, share, coded, a.stage_bytes);
    __syncwarp();
  }
  if (a.split > 1) cluster_arrive();  // waited for before the first sums are sent
  wait_for_previous_kernel();
  let_next_kernel_start();
  float old[4] = {};
  const int own = rank + a.split * warp;
  if (own < item.count) LinearPlaces{output, item.band * kBand + 4 * lane}.load_old(own, old);
  unsigned char* const input = reinterpret_cast<unsigned char*>(&shared + 1);
  float4* const gathered = reinterpret_cast<float4*>(input + a.few_input_bytes);
  const bool stores_sum = item.output == 0 && item.band == 0;
  stage_few<Path>(a, {0, item.count, share, output.matrix.suh, stores_sum}, scales, shared, input,
                  gathered + a.few_gathered);
  scale.store(shared);
  Path::multiply({shared.barriers, coded, a.stage_bytes, share.count, place}, output.matrix, item.count, input,
                 a.input_stride, shared.path);
  __syncthreads();
  if (a.split > 1) {
    cluster_wait();
    send_sums(a, item, rank, share.count, shared, gathered);
  }
  finish_linear_item<Path>(a, item, index, rank, share.count, shared, gathered, old);
}

template <class Path>
__global__ void __launch_bounds__(32 * kFewWarps, 2) linear_few_kernel(const __grid_constant__ LinearArgs a) {
  if constexpr (kCodeHasClusters) {
    run_few_linear_cta<Path>(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
