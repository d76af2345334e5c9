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

#include "kernels/common/cuda/hopper.cuh"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostStreamCtas = kMoeMostCtas;  // of a launch

enum class Written { kGateUp, kDown };

struct StreamState {
  unsigned last;  // number of the last launch
  unsigned left;  // CTAs of this launch that have read it
  unsigned flags[2][kMostStreamCtas];
};
static __device__ StreamState stream_state;

// The number of this launch. After wait_for_previous_kernel().
__device__ __forceinline__ unsigned launch_number() {
  return __ldcg(&stream_state.last) + 1;
}

// One thread of every CTA, once, when the CTA knows the number.
__device__ __forceinline__ void leave_launch(unsigned launch) {
  if (atomicAdd(&stream_state.left, 1u) != gridDim.x - 1) return;
  stream_state.left = 0;
  stream_state.last = launch;
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
