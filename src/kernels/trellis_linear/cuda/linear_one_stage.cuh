// The kernel for one row: what it has in shared memory, and how inputs get there.
#pragma once

#include "kernels/trellis_band/cuda/one_row_digits.cuh"
#include "kernels/trellis_band/cuda/ring.cuh"
#include "kernels/trellis_linear/cuda/linear_paths.cuh"
#include "kernels/trellis_linear/cuda/linear_read.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostNormedBlocks = kMaxLinearNorm / kBand;

struct alignas(16) LinearOneShared {
  RingBarriers barriers;
  std::uint64_t sums_there;  // in a cluster: of all its CTAs
  std::uint64_t staged;      // the inputs of the first item have been read
  alignas(16) float sums[2][kBand];
  float squares[kMostNormedBlocks];  // of the inputs before a norm, by block of the row
};

// Dynamic shared memory: the ring, LinearOneShared, the digits and the unit of every block, in a cluster the sums of
// its CTAs, [split][kBand].
struct OneMemory {
  LinearOneShared& shared;
  unsigned char* blocks;
  float* gathered;

  __device__ OneMemory(const LinearArgs& a, unsigned char* memory)
      : shared(*reinterpret_cast<LinearOneShared*>(memory + a.ring_stages * a.stage_bytes)),
        blocks(reinterpret_cast<unsigned char*>(&shared + 1)),
        gathered(reinterpret_cast<float*>(blocks + a.input_stride)) {}
};

// Four inputs of a lane as they are read. Nothing is computed until take(): what a warp has to do anyhow is done while
// they come.
struct OneInput {
  float4 x, add;  // of a norm in front
  uint2 halves;   // without one

  __device__ __forceinline__ void load(const LinearArgs& a, int k) {
    const LinearNorm& norm = a.call.norm;
    x = add = make_float4(0, 0, 0, 0);
    if (norm.x == nullptr) {
      halves = *reinterpret_cast<const uint2*>(a.call.x + k);
    } else if (k < norm.n) {
      x = *reinterpret_cast<const float4*>(norm.x + k);
      if (norm.add != nullptr) add = *reinterpret_cast<const float4*>(norm.add + k);
    }
  }
  // Returns the squares before the norm. stores_sum: LinearNorm::sum of these is this CTA's to store.
  __device__ __forceinline__ float take(const LinearArgs& a, bool stores_sum, int k, float (&v)[4]) const {
    if (a.call.norm.x == nullptr) {
      const float2 low = __half22float2(as_half2(halves.x)), high = __half22float2(as_half2(halves.y));
      v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
      return 0;
    }
    v[0] = x.x + add.x, v[1] = x.y + add.y, v[2] = x.z + add.z, v[3] = x.w + add.w;
    const float4 sum = make_float4(v[0], v[1], v[2], v[3]);
    if (stores_sum) store_norm_sum(a.call.norm, 0, k, sum);
    return add_squares(0.0f, sum);
  }
};

// The inputs of the share, a block a warp. read: x and scales are those of the warp's first block.
__device__ __forceinline__ void stage_one(const LinearArgs& a, const LinearInput& in, bool read, OneInput& x,
                                          InputScales& scales, const OneMemory& m) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll 1
  for (int block = warp; block < in.share.count; block += kComputeWarps) {
    const int k = (in.share.begin + block) * kBand + 4 * lane;
    if (!read) {
      scales.load(a, in.suh, k);
      x.load(a, k);
    }
    read = false;
    float part[4], v[4];
    float squares = x.take(a, in.stores_sum, k, part);
    scales.apply(part, v);
    hadamard128_and_sum(v, squares);
    store_one_unit(m.blocks + block * kOneBlockBytes, v);
    if (lane == 0 && a.call.norm.x != nullptr) {
      float* const to = &m.shared.squares[in.share.begin + block];
      if (a.split > 1) {
        send_to_cluster(to, &m.shared.sums_there, 0, squares);
      } else {
        *to = squares;
      }
    }
  }
}

}  // namespace fairway::kernels::cuda
