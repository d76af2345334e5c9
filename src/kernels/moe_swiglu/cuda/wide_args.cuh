// The arguments of the wide kernel of the expert layer, and its work items: two bands of 128 outputs of one segment. In
// the first phase they are the same band of gate and of up, in the second two neighbours of down.
#pragma once

#include "kernels/moe_swiglu/cuda/band_args.cuh"
#include "kernels/trellis_band/cuda/wide_band.cuh"

namespace fairway::kernels::cuda {

struct WideArgs {
  MoeLayer layer;
  MoeCall call;
  int slots_per_token;
  bool down;            // the phase
  GroupTable groups;    // of segments that begin at multiples of eight
  int places;           // of GroupTable::order
  unsigned* next_item;  // counts the items that have been taken
  __half* rows;         // transformed inputs of gate and, without common scales, after them of up: panels of `places`
  __half* hidden;       // transformed inputs of down: panels of `places` rows
  float* slot_out;      // as in BandArgs
  WideStage stage;
  int ring_stages;
};

struct WideItem {
  const ExpertRef* expert;
  int begin, count;  // into GroupTable::order; count = 0: nothing to do
  int band;          // of the first half
};

__device__ __forceinline__ int wide_items_of_segment(const WideArgs& a) {
  return a.down ? (a.layer.hidden / kBand + 1) / 2 : a.layer.max_intermediate / kBand;
}

__device__ __forceinline__ WideItem get_wide_item(const WideArgs& a, int index) {
  const int items = wide_items_of_segment(a);
  const Segment s = a.groups.segments[index / items];
  WideItem item{a.layer.experts + s.expert, s.begin, s.count, index % items};
  if (a.down) {
    item.band *= 2;
  } else if (item.band * kBand >= item.expert->intermediate) {
    item.count = 0;
  }
  return item;
}

__device__ __forceinline__ int wide_stages(const WideArgs& a, const WideItem& item) {
  return (a.down ? item.expert->intermediate : a.layer.hidden) / kWidePanel;
}

// What the loading warp tells the computing warps of an item, so that these wait for no global memory.
struct alignas(16) WideTask {
  int count;  // rows; 0: there are no more items
  int begin, band, stages;
  int bits[kWideHalves], codebook[kWideHalves];  // 0 bits: the matrix has no such band
  // Of the outputs of each half and, in the first phase, of the inputs of down, times kHadamardScale.
  alignas(16) float scales[3][kBand];
  int slots[kWideTokens];  // second phase, as are
  float weights[kWideTokens];
};

// One half of an item. null: the matrix has no such band.
struct WideHalf {
  const TrellisRef* matrix;
  int out;  // columns of the matrix
  int band;
};
__device__ __forceinline__ WideHalf get_wide_half(const WideArgs& a, const WideItem& item, int half) {
  if (!a.down) return {half == 0 ? &item.expert->gate : &item.expert->up, item.expert->intermediate, item.band};
  const int band = item.band + half;
  return {band < a.layer.hidden / kBand ? &item.expert->down : nullptr, a.layer.hidden, band};
}

}  // namespace fairway::kernels::cuda
