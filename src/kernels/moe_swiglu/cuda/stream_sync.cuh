// How the CTAs of a stream launch wait for each other. All of them become resident, see stream_launch.cu.
//
// A CTA raises a flag when what it wrote may be read, and a reader polls the flags of the CTAs that it depends on. A
// raised flag holds the number of the launch, so that flags need no clearing, whatever the next launch's grid is. The
// number is kept on the device, because a recorded launch has the same arguments at every replay: a launch reads the
// last one's number and uses the next; the last of its CTAs to have read it writes that.
//
// This state is in device memory of the module, zero when it is loaded, and not in the caller's scratch: nobody has to
// clear it and nothing else writes there. A launch leaves it valid whatever it was given. One that ends with a fault
// (or in which a wait gave up) does not, but then CUDA ends the use of the device for the process, and the module goes
// with it. A launch that fails on the host has not touched it. There is one state per device, so these launches must
// follow each other; griddepcontrol.wait and stream order see to that on one stream.
#pragma once

#include <cstddef>

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/trellis_band/cuda/band.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostStreamCtas = kMoeMostCtas;  // of a launch

enum class Written { kGateUp, kDown };

struct StreamState {
  unsigned last;  // number of the last launch
  unsigned left;  // CTAs of this launch that have read it
  uint2 one;      // of the kernel for one token: how many launches of it, and units of the last one's outputs
  unsigned flags[2][kMostStreamCtas];
};
static __device__ StreamState stream_state;

// In calls of few tokens the sums themselves carry the number of the launch, and nobody raises or reads a flag: that
// takes three ways through the L2 cache less from one CTA to another. They lie here because only sums with numbers may
// ever be written where their reader looks for a number. A unit is 16 bytes: two floats.
constexpr int kLinkedTokens = 4;                        // of a call, at most
constexpr int kLinkedGateUp = 512, kLinkedDown = 1024;  // pieces
constexpr int kLinkedUnits = kBand / 2;                 // of a token of one matrix
static __device__ uint4 linked_gate_up[kLinkedGateUp * 2 * kLinkedTokens * kLinkedUnits];
static __device__ uint4 linked_down[kLinkedDown * kLinkedTokens * kLinkedUnits];

// Four neighbouring floats of a lane: units `lane` and 32 + lane, so that a warp reads and writes whole lines.
__device__ __forceinline__ void store_linked(uint4* lane_units, float4 v, unsigned launch) {
  store_numbered(lane_units, v.x, v.y, launch);
  store_numbered(lane_units + 32, v.z, v.w, launch);
}

__device__ __forceinline__ float4 add4(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// A whole warp: sums[j] += a lane's four floats at lane_units + j * part in each of the pieces `first` .. `last`, which
// are `stride` units apart, in this order. Waits for them. The loads of a batch are under way together. (Polling one
// unit first, so that less is read in vain, takes longer.)
template <int kParts>
__device__ __forceinline__ void add_linked(const uint4* lane_units, int part, int stride, int first, int last,
                                           unsigned launch, float4 (&sums)[kParts]) {
  constexpr int kBatch = 4 / kParts;
#pragma unroll 1
  for (int piece = first; piece <= last; piece += kBatch) {
    uint4 v[kBatch][kParts][2];
    bool all;
    int polls = 0;
    do {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const uint4* const at = lane_units + static_cast<std::size_t>(piece + i) * stride;
#pragma unroll
        for (int j = 0; j < 2 * kParts; ++j) {
          uint4& w = v[i][j / 2][j % 2];
          w = make_uint4(0, launch, 0, launch);
          if (piece + i <= last) w = load_numbered(at + j / 2 * part + j % 2 * 32);
        }
      }
      all = true;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int j = 0; j < 2 * kParts; ++j) {
          const uint4& w = v[i][j / 2][j % 2];
          all &= w.y == launch && w.w == launch;
        }
      }
      poll_again(++polls);
    } while (!__all_sync(0xFFFFFFFFu, all));
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (piece + i > last) break;
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        sums[j] = add4(sums[j], make_float4(__uint_as_float(v[i][j][0].x), __uint_as_float(v[i][j][0].z),
                                            __uint_as_float(v[i][j][1].x), __uint_as_float(v[i][j][1].z)));
      }
    }
  }
}

// The number of this launch. After wait_for_previous_kernel().
__device__ __forceinline__ unsigned launch_number() {
  return __ldcg(&stream_state.last) + 1;
}

// One thread of every CTA, once, when the CTA knows the number. True for the last one, which may change what the others
// have read. turn: of AnnouncedRoutes, or null.
__device__ __forceinline__ bool leave_launch(unsigned launch, unsigned* turn = nullptr) {
  if (atomicAdd(&stream_state.left, 1u) != gridDim.x - 1) return false;
  if (turn != nullptr) ++*turn;
  stream_state.left = 0;
  stream_state.last = launch;
  return true;
}

// What the CTA's threads wrote before the last barrier of the CTA may be read by those who find the flag raised. One
// thread.
__device__ __forceinline__ void raise_flag(Written what, unsigned launch) {
  store_release(&stream_state.flags[static_cast<int>(what)][blockIdx.x], launch);
}

// One warp: returns when CTAs first..last have raised theirs.
__device__ __forceinline__ void wait_for_flags(Written what, int first, int last, unsigned launch) {
  for (int cta = first + static_cast<int>(threadIdx.x & 31); cta <= last; cta += 32) {
    wait_for_value(&stream_state.flags[static_cast<int>(what)][cta], launch);
  }
  __syncwarp();
}

}  // namespace fairway::kernels::cuda
