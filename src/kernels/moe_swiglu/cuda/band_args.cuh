// What the kernels of a call share: the device-side group table, the arguments, and the walk over work items.
//
// A work item is 128 outputs ("band") of one segment, a segment some tokens of one expert. An item has parts: runs of
// 128-row blocks of one matrix. The warp that loads and the warps that compute go through the same parts in step.
#pragma once

#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/trellis_band/cuda/band.cuh"

namespace fairway::kernels::cuda {

// Slots order[begin .. begin + count) of one expert.
struct Segment {
  int expert, begin, count;
};

struct GroupTable {
  const int* segment_count;
  const Segment* segments;
  const int* order;  // slots, by expert, ascending
};

enum class Phase { kGateUp, kDown, kDownDirect };

struct BandArgs {
  MoeLayer layer;
  MoeCall call;
  Phase phase;
  int slots_per_token;
  bool direct;      // no group table: segment s is slot s
  int direct_ctas;  // of an SM, that the clusters of a direct call may fill
  GroupTable groups;
  const __half* rows;  // half paths: transformed inputs, fragment order, see input_row()
  __half* hidden;      // [slots][max_intermediate]: transformed inputs of down, fragment order
  float* slot_out;     // [slots][hidden]: weighted outputs of a slot
  int split;           // CTAs of a cluster that share an item
  int item_step;       // items that the launch computes at a time: from a CTA's item to its next
  int ring_stages;
  int stage_bytes;
  int input_stride;  // integer paths: bytes from one column of the input operand to the next
};

// Args: BandArgs, or other arguments with a layer, a call and slots_per_token.
template <class Args>
__device__ __forceinline__ int slot_expert(const Args& a, int slot) {
  const int token = slot / a.slots_per_token, j = slot % a.slots_per_token;
  if (j >= a.layer.top_k) return a.layer.routed + j - a.layer.top_k;
  const int id = a.call.ids[token * a.layer.top_k + j];
  return id >= 0 && id < a.layer.routed ? id : -1;
}

template <class Args>
__device__ __forceinline__ float slot_weight(const Args& a, int slot) {
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
  int token;  // kDownDirect
};

// kDirect, here and below: of a path that direct calls may take. Others have no code for them, and no clusters.
template <bool kDirect>
__device__ __forceinline__ int item_slot(const BandArgs& a, const Item& item, int i) {
  return kDirect && a.direct ? item.begin + i : a.groups.order[item.begin + i];
}

__device__ __forceinline__ int item_bands(const BandArgs& a) {
  return (a.phase == Phase::kGateUp ? a.layer.max_intermediate : a.layer.hidden) / kBand;
}
template <bool kDirect>
__device__ __forceinline__ int item_count(const BandArgs& a) {
  if (!kDirect || !a.direct) return *a.groups.segment_count * item_bands(a);
  return a.call.tokens * (a.phase == Phase::kDownDirect ? 1 : a.slots_per_token) * item_bands(a);
}

template <bool kDirect>
__device__ __forceinline__ Item get_item(const BandArgs& a, int index) {
  const int bands = item_bands(a), row = index / bands;
  Item item{nullptr, row, 1, index % bands, row};
  if (kDirect && a.phase == Phase::kDownDirect) return item;
  int expert;
  if (kDirect && a.direct) {
    expert = slot_expert(a, row);
  } else {
    const Segment s = a.groups.segments[row];
    expert = s.expert;
    item.begin = s.begin;
    item.count = s.count;
  }
  item.expert = a.layer.experts + expert;
  if (expert < 0 || (a.phase == Phase::kGateUp && item.band * kBand >= item.expert->intermediate)) item.count = 0;
  return item;
}

// A run of 128-row blocks of one matrix.
struct Part {
  const TrellisRef* matrix;
  int out;           // of the matrix: tile rows are 2 * out * bits bytes apart
  int begin, count;  // blocks
  int slot;          // kDownDirect: whose hidden row is read
};

template <bool kDirect>
__device__ __forceinline__ int part_count(const BandArgs& a) {
  return a.phase == Phase::kGateUp ? 2 : !kDirect || a.phase == Phase::kDown ? 1 : a.slots_per_token;
}

template <bool kDirect>
__device__ __forceinline__ int band_split(const BandArgs& a) {
  return kDirect ? a.split : 1;
}

// Part p of an item for one CTA of its cluster. Gate and up are cut by rows; the direct down projection cuts the blocks
// of all slots of a token, end to end, into equal shares.
template <bool kDirect>
__device__ inline Part get_part(const BandArgs& a, const Item& item, int p, int rank) {
  if (a.phase == Phase::kGateUp) {
    const int split = band_split<kDirect>(a), blocks = a.layer.hidden / kBand, begin = rank * blocks / split;
    return {p == 0 ? &item.expert->gate : &item.expert->up, item.expert->intermediate, begin,
            (rank + 1) * blocks / split - begin, 0};
  }
  if (!kDirect || a.phase == Phase::kDown) {
    return {&item.expert->down, a.layer.hidden, 0, item.expert->intermediate / kBand, 0};
  }
  int before = 0, own = 0, total = 0, expert_of_part = -1;
  for (int j = 0; j < a.slots_per_token; ++j) {
    const int expert = slot_expert(a, item.token * a.slots_per_token + j);
    const int blocks = expert < 0 ? 0 : a.layer.experts[expert].intermediate / kBand;
    if (j < p) before += blocks;
    if (j == p) {
      own = blocks;
      expert_of_part = expert;
    }
    total += blocks;
  }
  const int from = max(rank * total / a.split - before, 0);
  const int to = min((rank + 1) * total / a.split - before, own);
  const int slot = item.token * a.slots_per_token + p;
  return {expert_of_part < 0 ? nullptr : &a.layer.experts[expert_of_part].down, a.layer.hidden, from, max(to - from, 0),
          slot};
}

}  // namespace fairway::kernels::cuda
