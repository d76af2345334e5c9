// How the results of splits go to the kernel that merges them while the CTAs of attend_latent.cuh still run: their
// reader polls the values themselves, so that it waits neither for the launch to end nor then for the values.
//
// What has not been written is zeros. Values are stored with all bits inverted: two halves are zeros then only if both
// are the NaN of all ones, which no conversion makes. Who has read a value makes it zeros again, and nobody else reads
// it. So each of the eight CTAs of a head has a copy of the weights. The launches that write and read are a pair, and
// other launches are between two pairs, which all wait for each other: no value is written before the last one was
// read.
//
// The memory belongs to the module, see stream_sync.cuh for why: there is one on a device, and calls follow each other.
#pragma once

#include "kernels/common/cuda/attend_args.cuh"
#include "kernels/common/cuda/hopper.cuh"

namespace fairway::kernels::cuda {

constexpr int kLinkReaders = 8;                // copies of a weight, neighbours
constexpr int kLinkPieces = kMaxValueDim / 8;  // of 8 values, from one split's place to the next
constexpr int kLinkSplits = 160;               // of a query, most, and places that a reader may look at

__device__ __forceinline__ uint4 inverted(uint4 v) {
  return make_uint4(~v.x, ~v.y, ~v.z, ~v.w);
}
__device__ __forceinline__ bool is_linked(uint4 v) {
  return v.x != 0 && v.z != 0;  // the others come with them
}

// to: of the first reader.
__device__ __forceinline__ void store_linked_weight(float* to, float weight) {
  const unsigned v = weight == weight ? ~__float_as_uint(weight) : 1;  // a NaN, whatever it was
  for (int i = 0; i < kLinkReaders / 4; ++i) store_words(reinterpret_cast<uint4*>(to) + i, make_uint4(v, v, v, v));
}

}  // namespace fairway::kernels::cuda
