// Runs CUDA kernels on the host: every thread of a block is a fiber of one host thread, so that barriers, shuffles and
// tensor instructions meet as they do on a device, and what a kernel computes can be tested where there is no GPU.
//
// What it shows: results, deadlocks, misaligned bulk copies, reads of shared memory that nobody wrote (it is filled
// with NaNs), and, with FAIRWAY_EMULATOR_SEED set to a number, results that depend on the order in which threads run.
// What it cannot show: races of single instructions, registers and spills, speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cuda_runtime_api.h"

namespace fairway::kernels::cuda {
struct GpuFeatures;
}

namespace fairway::cuda_emulator {

// From here on the device is another one and the code is compiled for it. Where no test says anything, a Hopper GPU, or
// what the environment variable FAIRWAY_EMULATOR_GPU says: 8.0 or 8.9.
void become_gpu(const kernels::cuda::GpuFeatures& features);

struct Launch {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  unsigned cluster = 1;   // blocks that run at the same time, along x
  bool together = false;  // all blocks of the grid run at the same time: a cooperative launch
};

constexpr int kMultiprocessors = 6;  // few, so that small tests go round the loops over work items

// Runs the body once for every thread of the grid. A deadlock or a launch that no device could run ends the program
// with a message.
void run(const Launch& launch, const std::function<void()>& body);

// What follows is called from within a body.

unsigned char* dynamic_shared();             // of this block
unsigned char* dynamic_shared_of(int rank);  // of a block of this cluster
int cluster_rank();
void cluster_sync();
void cluster_arrive();  // cluster_sync() in two halves; each arrival is followed by a wait
void cluster_wait();
void block_sync();                       // __syncthreads()
void named_sync(int name, int threads);  // bar.sync name, threads
void give_way();                         // one round of a loop that waits for other threads
void progress();                         // such a loop has ended

// What a lane gives to the others of its warp in one instruction, and what all gave. The pointer is valid until the
// next exchange of the warp.
struct Lane {
  std::uint32_t values[12];
};
const Lane* exchange(const Lane& mine);

// Ends the program with a message and the place in the launch.
[[noreturn]] void fail(const char* what);

}  // namespace fairway::cuda_emulator
