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

// And behind it the weights of kv_b_proj, and the coded ones.
struct alignas(16) QueryAbsorbMemory {
  QueryOneMemory query;
  AbsorbOneMemory absorb;
};

// Of shared memory: at most 77 KB, of the geometry of GLM-4.7-Flash at 3 bits 45.
template <UpWeight kUp>
int query_absorb_bytes(const MlaQuery& query, int nope) {
  return static_cast<int>(sizeof(QueryAbsorbMemory)) + AbsorbOne<kUp>::staged_bytes(nope) +
         query_operand_bytes(query.in, query.matrix.bits);
}

template <CacheType kType, UpWeight kUp>
__device__ __forceinline__ void query_absorb(const QueryAbsorb& a) {
  const MlaPrepare& p = a.prepare;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int rank = static_cast<int>(blockIdx.x) % kOneCluster, head = static_cast<int>(blockIdx.x) / kOneCluster;
  if (head == p.heads) {
    if (rank == 0 && warp == 0) prepare_mla_unit<kType, false>(p, 0, p.heads);
    return;
  }
  auto& memory = *dynamic_shared<QueryAbsorbMemory>();
  unsigned char* const weights = reinterpret_cast<unsigned char*>(&memory + 1);
  QueryOne<kUp> query(a.query, p, head, rank, memory.query, weights + AbsorbOne<kUp>::staged_bytes(p.nope));
  if (thread == 0) {
    query.init();
    barrier_init_fence();
    query.expect();
  }
  __syncwarp();
  cluster_arrive();
  const int position = p.rows.position[0];  // used when more is asked for
  AbsorbOne<kUp> absorb(a.up, head);
  query.load(a.up, absorb);
  if (warp == 0) query.load_weights();
  __syncwarp();
  absorb.stage(a.up, rank, weights);
  Rotation rotation(p.angles, position);
  wait_for_previous_kernel();
  let_next_kernel_start();

  query.stage();
  __syncthreads();
  query.multiply();
  __syncthreads();
  cluster_wait();  // the others' barriers are initialised
  query.send();
  absorb.take(weights);
  query.receive(memory.absorb.scaled);
  __half* const out = p.q_full + static_cast<long long>(head) * (p.latent + p.angles.dim);
  if (rank == 0 && warp == kOneWarps - 1) {
    const auto element = [&](int i) { return memory.absorb.scaled[p.nope + i]; };
    rotation.load(element);
    rotation.rotate(element, [&](int i, float v) { out[p.latent + i] = saturated_half(v); });
  }
  absorb.multiply(memory.absorb);
  if (4 * thread >= absorb.slice()) return;
  const float4 v = AbsorbOne<kUp>::sum(memory.absorb, thread, 1.0f);
  const __half2 low = __floats2half2_rn(v.x, v.y), high = __floats2half2_rn(v.z, v.w);
  *reinterpret_cast<uint2*>(out + rank * absorb.slice() + 4 * thread) =
      make_uint2(*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high));
}

template <CacheType kType, UpWeight kUp>
__global__ void __launch_bounds__(kOneThreads, 3) query_absorb_kernel(const __grid_constant__ QueryAbsorb a) {
  if constexpr (kCodeHasClusters) {
    query_absorb<kType, kUp>(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
