// mla_prepare(), mla_absorb() and the units of attend() of one row as one kernel: its CTAs load the keys of their
// splits while the kernel ahead still runs, then share the absorption, tell each other, and attend.
//
// How they tell: a CTA raises a flag when what it wrote may be read, and the others poll all flags. A raised flag holds
// the number of the launch, so that flags need no clearing, whatever the next launch's grid is. The number is kept on
// the device, because a recorded launch has the same arguments at every replay: a launch reads the last one's number
// and uses the next; the last of its CTAs to have read it writes that. This state is memory of the module, zero when it
// is loaded; one for each device, so that these launches must follow each other on one stream. All CTAs become
// resident: there are no more than multiprocessors, what runs before them waits for nobody, and what comes after starts
// only when they have all begun.
#pragma once

#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/weight_bytes.cuh"
#include "kernels/common/cuda/attend_latent.cuh"
#include "kernels/rope/cuda/mla_unit.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostAbsorbCtas = 256;
constexpr int kAbsorbSlice = 64, kAbsorbNope = 256;  // latents of half a CTA, and most elements of a head's query

struct AbsorbState {
  unsigned last;  // number of the last launch
  unsigned left;  // CTAs of this launch that have read it
  unsigned flags[kMostAbsorbCtas];
};
static __device__ AbsorbState absorb_state;

struct AbsorbAttend {
  MlaPrepare prepare;
  MlaUpProjection up;
  AttendArgs attend;
};

// A group of four warps has 64 latents of a head: thread t of it words t % 16 of the rows t / 16, t / 16 + 8 ... A warp
// of the last CTAs makes the row of the cache, or the rotated part of a head.
template <CacheType kType>
class AbsorbedQueries {
  static constexpr int kRows = kAbsorbNope / 8;
  struct Memory {
    float scaled[2][kAbsorbNope];  // the query, times the scales of the weights
    float parts[2][4][kAbsorbSlice];
  };
  static_assert(sizeof(Memory) <= kLatentTiles * kLatentQueryBytes);

 public:
  __device__ __forceinline__ explicit AbsorbedQueries(const AbsorbAttend& a) : a_(a) {}

  __device__ __forceinline__ void run(unsigned char* scratch) {
    auto& memory = *reinterpret_cast<Memory*>(scratch);
    const MlaUpProjection& up = a_.up;
    const MlaPrepare& p = a_.prepare;
    const int thread = static_cast<int>(threadIdx.x), group = thread / 128, in_group = thread % 128;
    const int ctas = static_cast<int>(gridDim.z), cta = static_cast<int>(blockIdx.z);
    const int slices = up.latent / kAbsorbSlice, unit = cta + group * ctas, head = unit / slices;
    const bool works = head < up.heads;
    const int word = in_group % 16, row = in_group / 16, latent = unit % slices * kAbsorbSlice + 4 * word;
    const long long row0 = static_cast<long long>(works ? head : 0) * (up.nope + up.v);
    unsigned words[kRows];
    float scales[2];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int r = row + 8 * k;
      words[k] =
          works && r < up.nope ? *reinterpret_cast<const unsigned*>(up.weights + (row0 + r) * up.latent + latent) : 0;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = in_group + 128 * i;
      scales[i] = works && r < up.nope ? up.scales[row0 + r] : 0.0f;
    }
    if (thread / 32 == 4 && ctas - 1 - cta <= p.heads) prepare_mla_unit<kType, false>(p, 0, p.heads - (ctas - 1 - cta));
    wait_for_previous_kernel();
    launch_ = __ldcg(&absorb_state.last) + 1;
    const float* const q = p.q + static_cast<long long>(works ? head : 0) * (p.nope + p.angles.dim);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = in_group + 128 * i;
      memory.scaled[group][r] = r < up.nope ? q[r] * scales[i] : 0.0f;
    }
    __syncthreads();
    float sum[4] = {}, shift = 0;
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (8 * k >= up.nope) break;
      const float x = memory.scaled[group][row + 8 * k];
      add_shifted(sum, biased_bytes(words[k]), x);
      shift += x;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sum[j] -= shift * kByteShift;
      sum[j] += __shfl_xor_sync(0xFFFFFFFFu, sum[j], 16);
    }
    if (thread % 32 < 16) {
      *reinterpret_cast<float4*>(&memory.parts[group][in_group / 32][4 * word]) =
          make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
    __syncthreads();
    if (works && in_group < 16) {
      float4 all = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float4 v = *reinterpret_cast<const float4*>(&memory.parts[group][w][4 * word]);
        all.x += v.x, all.y += v.y, all.z += v.z, all.w += v.w;
      }
      *reinterpret_cast<uint2*>(p.q_full + static_cast<long long>(head) * (p.latent + p.angles.dim) + latent) =
          make_uint2(pair_of(all.x, all.y), pair_of(all.z, all.w));
    }
    __syncthreads();
    if (thread == 0) store_release(&absorb_state.flags[cta], launch_);
  }

  __device__ __forceinline__ void meet() {
    const int thread = static_cast<int>(threadIdx.x), ctas = static_cast<int>(gridDim.z);
    if (thread < ctas) wait_for_value(&absorb_state.flags[thread], launch_);
    __syncthreads();
    if (thread != 0 || atomicAdd(&absorb_state.left, 1u) != gridDim.z - 1) return;
    absorb_state.left = 0;
    absorb_state.last = launch_;
  }

 private:
  const AbsorbAttend& a_;
  unsigned launch_;
};

template <CacheType kType>
__global__ void __maxnreg__(kLatentRegisters) mla_absorb_attend_kernel(const __grid_constant__ AbsorbAttend a) {
  AbsorbedQueries<kType> queries(a);
  LatentAttendCta<kType>(a.attend).run(queries);
}

}  // namespace fairway::kernels::cuda
