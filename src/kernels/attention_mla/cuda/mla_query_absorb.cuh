// A single row's query for attention over many positions, from its linear layer on: a cluster of CTAs for every head,
// and one more for the row of the cache. What mla_prepare_absorb.cuh does behind a launch of q_b_proj.
#pragma once

#include "kernels/attention_mla/cuda/mla_absorb_one.cuh"
#include "kernels/attention_mla/cuda/mla_query_one.cuh"
#include "kernels/rope/cuda/mla_unit.cuh"

namespace fairway::kernels::cuda {

struct QueryAbsorb {
  MlaQuery query;
  MlaPrepare prepare;
  MlaUpProjection up;
};

// And behind it the coded weights.
struct alignas(16) QueryAbsorbMemory {
  QueryOneMemory query;
  AbsorbOneMemory absorb;
};

// Of shared memory: of the geometry of GLM-4.7-Flash at 3 bits 20 KB.
inline int query_absorb_bytes(const MlaQuery& query) {
  return static_cast<int>(sizeof(QueryAbsorbMemory)) + query_operand_bytes(query.in, query.matrix.bits);
}

// kUsual: nope is kUsualNope, latent kOneLatent and v kOneV.
//
// The weights of kv_b_proj are in registers before the wait. So, as halves, an SM has registers for two CTAs: as
// three, which is where clusters came to lie, they took 1 us longer than one, and attention waits for the last.
template <CacheType kType, UpWeight kUp, bool kUsual>
class QueryAbsorbCta {
  using Absorb = AbsorbOne<kUp, kUsual ? kUsualNope : 0, false>;
  using Query = QueryOne<kUp, kUsual ? kUsualNope + kUsualRope : 0>;

 public:
  __device__ __forceinline__ explicit QueryAbsorbCta(const QueryAbsorb& args)
      : p_(args.prepare),
        query_(args.query),
        up_(args.up),
        angles_(args.prepare.angles),
        rank_(static_cast<int>(blockIdx.x % kOneCluster)),
        head_(static_cast<int>(blockIdx.x / kOneCluster)) {
    if (!kUsual) return;
    set_usual_sizes(up_);
    angles_.dim = kUsualRope;
  }

  __device__ __forceinline__ void run() {
    const int thread = static_cast<int>(threadIdx.x);
    const bool is_last = thread >= kOneThreads - 32;  // a warp that has no inputs, usually
    if (head_ == p_.heads) {
      if (rank_ == 0 && is_last) prepare_mla_unit<kType, false>(p_, 0, p_.heads);
      return;
    }
    auto& memory = *dynamic_shared<QueryAbsorbMemory>();
    Query query(query_, p_, head_, rank_, memory.query, reinterpret_cast<unsigned char*>(&memory + 1));
    if (is_last) {
      if ((thread & 31) == 0) {
        query.init();
        barrier_init_fence();
        query.expect();
      }
      __syncwarp();
    }
    cluster_arrive();
    if (is_last) query.load_weights();
    Absorb absorb(up_, head_);
    query.load(up_, absorb);
    absorb.load(up_, rank_);
    const bool rotates = rank_ == 0 && is_last;
    RopeAngles angles = angles_;
    if (!rotates) angles.dim = 0;  // nothing is loaded
    Rotation rotation(angles, rotates ? p_.rows.position[0] : 0);
    cluster_wait();  // the others' barriers are initialised
    wait_for_previous_kernel();
    let_next_kernel_start();

    query.stage();
    __syncthreads();
    query.multiply();
    __syncthreads();
    query.send();
    query.receive(memory.absorb.scaled);
    absorb.multiply(memory.absorb);
    __half* const out = p_.q_full + head_ * (up_.latent + angles_.dim);
    if (rotates) {
      const auto element = [&](int i) { return memory.absorb.scaled[up_.nope + i]; };
      rotation.load(element);
      rotation.rotate(element, [&](int i, float v) { out[up_.latent + i] = saturated_half(v); });
    }
    if (4 * thread >= absorb.slice()) return;
    const float4 v = Absorb::sum(memory.absorb, thread, 1.0f);
    const __half2 low = __floats2half2_rn(v.x, v.y), high = __floats2half2_rn(v.z, v.w);
    *reinterpret_cast<uint2*>(out + rank_ * absorb.slice() + 4 * thread) =
        make_uint2(*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high));
  }

 private:
  const MlaPrepare& p_;
  const MlaQuery& query_;
  MlaUpProjection up_;
  RopeAngles angles_;
  const int rank_, head_;
};

template <CacheType kType, UpWeight kUp, bool kUsual>
__global__ void __launch_bounds__(kOneThreads, 2) query_absorb_kernel(const __grid_constant__ QueryAbsorb a) {
  if constexpr (kCodeHasClusters) {
    QueryAbsorbCta<kType, kUp, kUsual>(a).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
