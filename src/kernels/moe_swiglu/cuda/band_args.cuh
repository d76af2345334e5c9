// What the kernels of a call share: the device-side group table, the arguments, and the walk over work items.
//
// A work item is 128 outputs ("band") of one segment, a segment some tokens of one expert. An item has parts, one a
// matrix. The warp that loads and the warps that compute go through the same parts in step.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"

namespace fairway::kernels::cuda {

constexpr int kBand = 128;              // outputs of an item; also the Hadamard block
constexpr int kBandTiles = kBand / 16;  // tiles side by side in a band, and tile rows of a block
constexpr int kComputeWarps = 8;
constexpr int kComputeThreads = 32 * kComputeWarps;
constexpr int kBandThreads = kComputeThreads + 32;  // and one warp that loads

// Slots order[begin .. begin + count) of one expert.
struct Segment {
  int expert, begin, count;
};

struct GroupTable {
  const int* segment_count;
  const Segment* segments;
  const int* order;  // slots, by expert, ascending
};

enum class Phase { kGateUp, kDown };

struct CallArgs {
  MoeLayer layer;
  MoeCall call;
  int slots_per_token;
};

struct BandArgs : CallArgs {
  Phase phase;
  GroupTable groups;
  const __half* rows;  // half paths: transformed inputs, fragment order, see input_row()
  __half* hidden;      // [slots][max_intermediate]: transformed inputs of down, fragment order
  float* slot_out;     // [slots][hidden]: weighted outputs of a slot
  int ring_stages;
  int stage_bytes;
  int input_stride;  // integer paths: bytes from one column of the input operand to the next
};

// In fragment order, the elements 2q, 2q + 1, 2q + 8, 2q + 9 of two consecutive tile rows are neighbours, so that a
// lane finds its part of the token operand in 16 bytes (halves) or 8 bytes (int8 digits).
__device__ __forceinline__ int fragment_order(int k) {
  const int in_group = k & 31, row = in_group & 15;
  return (k & ~31) + (row & 7) / 2 * 8 + (in_group >> 4) * 4 + (row >> 3) * 2 + (row & 1);
}

__device__ __forceinline__ int slot_expert(const CallArgs& a, int slot) {
  const int token = slot / a.slots_per_token, j = slot % a.slots_per_token;
  if (j >= a.layer.top_k) return a.layer.routed + j - a.layer.top_k;
  const int id = a.call.ids[token * a.layer.top_k + j];
  return id >= 0 && id < a.layer.routed ? id : -1;
}

__device__ __forceinline__ float slot_weight(const CallArgs& a, int slot) {
  const int token = slot / a.slots_per_token, j = slot % a.slots_per_token;
  return j >= a.layer.top_k ? 1.0f : a.call.weights[token * a.layer.top_k + j];
}

// Row of BandArgs::rows: one a token where all experts share their input scales, else two a slot.
__device__ __forceinline__ int input_row(const BandArgs& a, int slot, int matrix) {
  return a.layer.common_suh != nullptr ? slot / a.slots_per_token : 2 * slot + matrix;
}

// One item. count = 0: nothing to do.
struct Item {
  const ExpertRef* expert;
  int begin;  // into GroupTable::order
  int count;  // tokens
  int band;
};

__device__ __forceinline__ int item_slot(const BandArgs& a, const Item& item, int i) {
  return a.groups.order[item.begin + i];
}

__device__ __forceinline__ int item_bands(const BandArgs& a) {
  return (a.phase == Phase::kGateUp ? a.layer.max_intermediate : a.layer.hidden) / kBand;
}
__device__ __forceinline__ int item_count(const BandArgs& a) {
  return *a.groups.segment_count * item_bands(a);
}

__device__ __forceinline__ Item get_item(const BandArgs& a, int index) {
  const int bands = item_bands(a);
  const Segment s = a.groups.segments[index / bands];
  Item item{a.layer.experts + s.expert, s.begin, s.count, index % bands};
  if (a.phase == Phase::kGateUp && item.band * kBand >= item.expert->intermediate) item.count = 0;
  return item;
}

// The blocks of 128 rows of one matrix.
struct Part {
  const TrellisRef* matrix;
  int out;  // of the matrix: tile rows are 2 * out * bits bytes apart
  int blocks;
};

__device__ __forceinline__ int part_count(const BandArgs& a) {
  return a.phase == Phase::kGateUp ? 2 : 1;
}

__device__ inline Part get_part(const BandArgs& a, const Item& item, int p) {
  if (a.phase == Phase::kDown) return {&item.expert->down, a.layer.hidden, item.expert->intermediate / kBand};
  return {p == 0 ? &item.expert->gate : &item.expert->up, item.expert->intermediate, a.layer.hidden / kBand};
}

}  // namespace fairway::kernels::cuda
