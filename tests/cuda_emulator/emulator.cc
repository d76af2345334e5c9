// Fibers, blocks, warps and barriers.
#include "emulator.h"

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

uint3 threadIdx{}, blockIdx{};
dim3 gridDim, blockDim;

namespace fairway::cuda_emulator {
namespace {

namespace context = boost::context;

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // of a block on Hopper
constexpr int kWarp = 32;
constexpr int kNamedBarriers = 16;

// A meeting of a number of threads.
struct Meeting {
  int arrived = 0;
  unsigned round = 0;

  // True for the thread that completes the meeting.
  bool arrive(int expected) {
    if (++arrived < expected) return false;
    arrived = 0;
    ++round;
    return true;
  }
};

struct Warp {
  Meeting meeting;
  int lanes = kWarp;  // that have not returned
  std::array<Lane, kWarp> given{}, seen{};
};

struct Block {
  uint3 index{};
  std::vector<unsigned char> shared;
  std::vector<Warp> warps;
  Meeting all;
  std::array<Meeting, kNamedBarriers> named;
  int threads = 0;  // that have not returned
};

struct Thread {
  context::fiber fiber;
  Block* block = nullptr;
  unsigned index = 0;
  unsigned cluster_round = 0;  // that it arrived in
  bool arrived = false;        // at the cluster's barrier, and has not waited
};

struct Machine {
  std::vector<Block> blocks;    // that run now: a cluster, or the whole grid
  std::vector<Thread> threads;  // of them
  std::size_t cluster = 1;
  std::vector<Meeting> clusters;
  std::size_t current = 0;
  context::fiber scheduler;
  std::size_t idle = 0;  // turns that changed nothing
  std::uint64_t random = 0;
  bool shuffled = false;
};
Machine machine;

Thread& self() {
  return machine.threads[machine.current];
}

std::size_t block_number() {
  return static_cast<std::size_t>(self().block - machine.blocks.data());
}

void resume_scheduler() {
  machine.scheduler = std::move(machine.scheduler).resume();
}

// Waits until the meeting has gone on from the round it was in.
void wait_for(const Meeting& meeting, unsigned round) {
  while (meeting.round == round) give_way();
  progress();
}

void meet(Meeting& meeting, int expected) {
  const unsigned round = meeting.round;
  if (!meeting.arrive(expected)) wait_for(meeting, round);
}

// The thread has returned: meetings of all threads that are left may be complete without it.
void leave(Thread& thread) {
  Block& block = *thread.block;
  Warp& warp = block.warps[thread.index / kWarp];
  if (--warp.lanes > 0 && warp.meeting.arrived == warp.lanes) {
    warp.seen = warp.given;
    warp.meeting.arrived = 0;
    ++warp.meeting.round;
  }
  if (--block.threads > 0 && block.all.arrived == block.threads) {
    block.all.arrived = 0;
    ++block.all.round;
  }
}

std::uint64_t next_random() {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  machine.random ^= machine.random << 17;
  return machine.random;
}

void run_threads() {
  std::vector<std::size_t> live(machine.threads.size());
  for (std::size_t i = 0; i < live.size(); ++i) live[i] = i;
  const std::size_t patience = machine.shuffled ? 200 : 8;
  for (std::size_t turn = 0; !live.empty(); ++turn) {
    const std::size_t at = machine.shuffled ? next_random() % live.size() : turn % live.size();
    machine.current = live[at];
    Thread& thread = self();
    threadIdx = {thread.index % blockDim.x, thread.index / blockDim.x % blockDim.y,
                 thread.index / (blockDim.x * blockDim.y)};
    blockIdx = thread.block->index;
    if (++machine.idle > patience * live.size()) fail("deadlock: every thread waits");
    thread.fiber = std::move(thread.fiber).resume();
    if (thread.fiber) continue;
    progress();
    leave(thread);
    live.erase(live.begin() + static_cast<std::ptrdiff_t>(at));
  }
}

void check_launch(const Launch& launch) {
  const std::size_t threads = std::size_t{launch.block.x} * launch.block.y * launch.block.z;
  const std::size_t blocks = std::size_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  if (threads == 0 || threads > 1024 || threads % kWarp != 0) fail("launch: blocks of an unusual number of threads");
  if (blocks == 0 || launch.grid.y > 65535 || launch.grid.z > 65535) fail("launch: no block, or too many");
  if (launch.shared_bytes > kMaxSharedBytes) fail("launch: more shared memory than a block can have");
  if (launch.cluster == 0 || launch.cluster > 16 || launch.grid.x % launch.cluster != 0) fail("launch: cluster");
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& body) {
  static context::pooled_fixedsize_stack stacks(kStackBytes, 64, 0);
  gridDim = launch.grid;
  blockDim = launch.block;
  check_launch(launch);
  if (const char* seed = std::getenv("FAIRWAY_EMULATOR_SEED"); seed != nullptr && !machine.shuffled) {
    machine.shuffled = true;
    machine.random = 0x9E3779B97F4A7C15u ^ std::strtoull(seed, nullptr, 10);
  }
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  const std::size_t blocks = std::size_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  const std::size_t at_once = launch.together ? blocks : launch.cluster;
  machine.cluster = launch.cluster;
  for (std::size_t first = 0; first < blocks; first += at_once) {
    machine.blocks.assign(at_once, {});
    machine.clusters.assign(at_once / launch.cluster, {});
    machine.threads.clear();
    machine.threads.reserve(at_once * threads);
    for (std::size_t b = 0; b < at_once; ++b) {
      Block& block = machine.blocks[b];
      const unsigned number = static_cast<unsigned>(first + b);
      block.index = {number % launch.grid.x, number / launch.grid.x % launch.grid.y,
                     number / (launch.grid.x * launch.grid.y)};
      block.shared.assign(launch.shared_bytes + 1024, 0xFF);
      block.warps.resize(threads / kWarp);
      block.threads = static_cast<int>(threads);
      for (unsigned t = 0; t < threads; ++t) {
        machine.threads.push_back({context::fiber(std::allocator_arg, stacks,
                                                  [&body](context::fiber&& scheduler) {
                                                    machine.scheduler = std::move(scheduler);
                                                    body();
                                                    return std::move(machine.scheduler);
                                                  }),
                                   &block, t});
      }
    }
    progress();
    run_threads();
  }
}

unsigned char* dynamic_shared() {
  return dynamic_shared_of(cluster_rank());
}

unsigned char* dynamic_shared_of(int rank) {
  Block& block = machine.blocks[block_number() / machine.cluster * machine.cluster + static_cast<std::size_t>(rank)];
  auto at = reinterpret_cast<std::uintptr_t>(block.shared.data());
  return reinterpret_cast<unsigned char*>((at + 1023) / 1024 * 1024);
}

int cluster_rank() {
  return static_cast<int>(block_number() % machine.cluster);
}

void cluster_arrive() {
  if (self().arrived) fail("a second arrival at the cluster's barrier without a wait");
  int expected = 0;
  const std::size_t cluster = block_number() / machine.cluster;
  for (std::size_t r = 0; r < machine.cluster; ++r) expected += machine.blocks[cluster * machine.cluster + r].threads;
  self().cluster_round = machine.clusters[cluster].round;
  self().arrived = true;
  machine.clusters[cluster].arrive(expected);
}

void cluster_wait() {
  if (!self().arrived) fail("a wait at the cluster's barrier without an arrival");
  wait_for(machine.clusters[block_number() / machine.cluster], self().cluster_round);
  self().arrived = false;
}

void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

void block_sync() {
  meet(self().block->all, self().block->threads);
}

void named_sync(int name, int threads) {
  meet(self().block->named.at(static_cast<std::size_t>(name)), threads);
}

void give_way() {
  resume_scheduler();
}

void progress() {
  machine.idle = 0;
}

const Lane* exchange(const Lane& mine) {
  Warp& warp = self().block->warps[self().index / kWarp];
  warp.given[self().index % kWarp] = mine;
  const unsigned round = warp.meeting.round;
  if (warp.meeting.arrived + 1 == warp.lanes) warp.seen = warp.given;
  if (!warp.meeting.arrive(warp.lanes)) wait_for(warp.meeting, round);
  return warp.seen.data();
}

void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u,%u,%u of %u,%u,%u, thread %u of %u)\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, threadIdx.x, blockDim.x);
  std::abort();
}

}  // namespace fairway::cuda_emulator
