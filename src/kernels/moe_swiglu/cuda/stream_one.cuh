// The stream kernel for one token, where what counts is the way of a value through the layer, not the rate of products.
//
// A unit is 128 x 128 weights of gate, those of up, and those of down that begin in the same band of the intermediate
// size: gate and up of band i and block b of the hidden size, down of block i and band b. Every CTA has an equal run of
// units, and keeps all of their weights in shared memory, so nothing waits for room but the last units of down of wide
// matrices, see OneStages. It needs the inputs of down of the bands alone that it has units of, two at most, and the
// sums of gate and up for them come from the few CTAs that share a band. So little is read twice, and the outputs of
// down are complete sums over a block, which wait for nobody:
//
// - A warp has one or two columns of tiles of a unit and all of its inputs. With two it reads digits once for two tiles
//   and goes from unit to unit half as often, 43 cycles a tile instead of 46; sums of gate and up are then of every
//   second unit, two parts of a CTA for a band, and there are fewer, larger shares. See columns_of().
// - Every block of 128 inputs has a fixed point of its own, see one_row_digits.cuh.
// - More warps serve the computing ones: they make the table of the run, ask for all weights but those of the first
//   unit, make the inputs of down and transform its outputs. What one of them does alone while all others wait takes as
//   long as it has instructions, some five cycles each, since each comes from far: so places are computed before the
//   routes are known, two warps share the inputs of down, and nothing is left to be cleared in the end.
// - In the end CTAs without units, or with few, add up the outputs of all units; if those are too few, the serving
//   warps of all do it.
//
// Inputs and routes as in stream_early.cuh; how CTAs wait for each other is in stream_sync.cuh.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/moe_swiglu/cuda/one_walk.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneSumParts = 8;  // of a band, see sum_one_part()

// As stamp(), by the thread that says so.
__device__ __forceinline__ void stamp_by(bool own, const StreamArgs& a, MoeStamp point) {
  if (a.call.probe.stamps != nullptr && own) a.call.probe.stamps[blockIdx.x * kMoeStamps + point] = cycle_counter();
}

// The table of the run, by a warp. It is cut before the routes are known, for slots that all have an expert of the
// largest size; if some do not, it is cut again. Else all that the experts add is where their matrices are: what is
// done from there to the first request for weights is on the way of every layer.
__device__ __forceinline__ void make_one_table(const StreamArgs& a, OneShared& shared) {
  const int lane = threadIdx.x & 31;
  const bool routed = lane < a.layer.top_k, used = lane < a.slots_per_token;
  const ExpertRef* const experts = a.layer.experts;
  int bands = used ? a.layer.max_intermediate / kBand : 0;
  EarlyRoute route;
#pragma unroll 1
  for (bool taken = false;; taken = true) {
    const OneCut cut(a, bands);
    const OneMatrixPlace place(a, shared.table, cut);
    if (!taken) route.take(a, routed, lane, used ? a.layer.routed + lane - a.layer.top_k : -1);
    const int expert = max(__shfl_sync(kAllLanes, route.expert, cut.slot), 0);
    const TrellisRef& matrix = matrix_of(experts[expert], cut.matrix);
    const int bits = matrix.bits, real = route.expert < 0 ? 0 : experts[route.expert].intermediate;
    place.store(shared.table, cut, expert, matrix.words, bits);
    if (lane == 0) {
      shared.table.launch = route.launch;
      shared.table.last = route.one;
    }
    if (__any_sync(kAllLanes, real != bands * kBand)) {
      bands = real / kBand;
      continue;
    }
    barrier_arrive(&shared.table_there);
    expect_one_run(shared, cut, bits);
    break;
  }
  shared.weights[lane] = route.weight(a, routed, lane);
  barrier_arrive(&shared.rest_there);
}

// The inputs of gate and up, by the computing warps, a block each in turn. Returns what sums are multiplied with: the
// factor of the norm.
__device__ __forceinline__ float stage_one_inputs(const StreamArgs& a, const OneMemory& m) {
  const MoeNorm& norm = a.call.norm;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, blocks = a.layer.hidden / kBand;
  const bool plain = norm.x == nullptr;
  // The first access to the row finds out where it lies: before it is there.
  if (!plain && warp < blocks) prefetch_line(norm.x + warp * kBand + 4 * lane);
  if (a.call.announced.row != nullptr) barrier_wait(&m.shared.row_there, 0);
#pragma unroll 1
  for (int block = warp; block < blocks; block += kOneWarps) {
    const int k = block * kBand + 4 * lane;
    const uint2 suh = *reinterpret_cast<const uint2*>(a.layer.common_suh + k);
    float v[4] = {}, squares = 0;
    if (plain) {
      load_half4(a.call.x + k, v);
    } else if (k < norm.n) {
      const float4 x = __ldcg(reinterpret_cast<const float4*>(norm.x + k));
      const float4 weight = *reinterpret_cast<const float4*>(norm.weight + k);
      squares = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, x.w * x.w)));
      to_array(make_float4(x.x * weight.x, x.y * weight.y, x.z * weight.z, x.w * weight.w), v);
    }
    scale_by(v, suh);
    hadamard128_and_sum(v, squares);
    store_one_unit(m.inputs + block * kOneBlockBytes, v);
    if (lane == 0) m.shared.squares[block] = squares;
  }
  consumer_sync<kOneComputeThreads>();
  if (plain) return 1.0f;
  float squares = 0;
#pragma unroll 1
  for (int block = lane; block < blocks; block += 32) squares += m.shared.squares[block];
  return rms_factor(warp_sum(squares), norm.n, norm.eps);
}

// The inputs of down of one piece, from a lane's four before the transform.
__device__ __forceinline__ void leave_middle(const StreamArgs& a, const OneMemory& m, int piece, float (&v)[4]) {
  hadamard128(v);
  store_one_unit(m.middle + piece * kOneBlockBytes, v);
  __syncwarp();
  barrier_arrive(&m.shared.middle[piece]);
  stamp_by(piece == 0 && (threadIdx.x & 31) == 0, a, kStampDownInput);
}

// They are made by the warp that serves the piece, where a CTA has one part of its sums.
__device__ inline void make_one_middle(const StreamArgs& a, const OneMemory& m, int piece) {
  const OneTable& t = m.shared.table;
  const OnePiece& p = t.pieces[piece];
  if (p.count == 0) return;
  const int lane = threadIdx.x & 31, k = p.band * kBand + 4 * lane;
  const ExpertRef& e = a.layer.experts[p.expert];
  const uint2 gate_svh = *reinterpret_cast<const uint2*>(e.gate.svh + k);
  const uint2 up_svh = *reinterpret_cast<const uint2*>(e.up.svh + k);
  const uint2 suh = *reinterpret_cast<const uint2*>(e.down.suh + k);
  barrier_wait(&m.shared.gate_up_done, 0);
  float4 sums[2] = {};
  add_linked<2>(linked_gate_up + lane, kLinkedUnits, 2 * kLinkedUnits, p.item + p.first_cta, p.item + p.last_cta,
                t.launch, sums);
  stamp_by(piece == 0 && lane == 0, a, kStampWaited);
  float gate[4], v[4];
  to_array(sums[0], gate);
  to_array(sums[1], v);
  hadamard128_both(gate, v);
  scale_by(gate, gate_svh);
  scale_by(v, up_svh);
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] *= __fdividef(gate[j], 1.0f + __expf(-gate[j]));
  scale_by(v, suh);
  leave_middle(a, m, piece, v);
}

// The same by two warps, of which one transforms gate and the other up, where a CTA has two parts.
__device__ __forceinline__ void make_half_middle(const StreamArgs& a, const OneMemory& m, int piece, bool up) {
  const OneTable& t = m.shared.table;
  const OnePiece& p = t.pieces[piece];
  if (p.count == 0) return;
  const int lane = threadIdx.x & 31, k = p.band * kBand + 4 * lane;
  const ExpertRef& e = a.layer.experts[p.expert];
  const uint2 svh = *reinterpret_cast<const uint2*>((up ? e.up.svh : e.gate.svh) + k);
  const uint2 suh = *reinterpret_cast<const uint2*>(e.down.suh + k);
  // Before the wait, as all that can be.
  const int first = hidden(2 * (p.item + p.first_cta)), last = hidden(2 * (p.item + p.last_cta) + 1);
  const auto launch = static_cast<unsigned>(hidden(static_cast<int>(t.launch)));
  barrier_wait(&m.shared.gate_up_done, 0);
  float4 sums[1] = {};
  add_linked<1>(linked_gate_up + (up ? kLinkedUnits : 0) + lane, 0, 2 * kLinkedUnits, first, last, launch, sums);
  stamp_by(piece == 0 && !up && lane == 0, a, kStampWaited);
  float v[4];
  to_array(sums[0], v);
  hadamard128(v);
  scale_by(v, svh);
  auto* const between = reinterpret_cast<float4*>(m.shared.up[piece]) + lane;
  if (up) {
    scale_by(v, suh);
    *between = make_float4(v[0], v[1], v[2], v[3]);
    barrier_arrive(&m.shared.up_there[piece]);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = __fdividef(v[j], 1.0f + __expf(-v[j]));
  barrier_wait(&m.shared.up_there[piece], 0);
  const float4 other = *between;
  v[0] *= other.x, v[1] *= other.y, v[2] *= other.z, v[3] *= other.w;
  leave_middle(a, m, piece, v);
}

// The outputs of down of every unit, [unit][kBand / 4], until the layer's outputs have been added up. A float is zero
// when it is not there, and one that is zero is written as negative zero. So a float needs no number, as linked sums
// do. Launches take turns with two such places, and clear the one of the launch before: in the end, by who has read
// them, that would be on the way to the next kernel.
constexpr int kOneDown = kMostOneLayerUnits * (kBand / 4);
static __device__ float4 one_down[2 * kOneDown];
__device__ __forceinline__ float4* down_of_launch(const OneTable& t) {
  return one_down + (t.last.x & 1) * kOneDown;
}
__device__ __forceinline__ void clear_last_down(const OneTable& t) {
  float4* const from = one_down + (~t.last.x & 1) * kOneDown;
#pragma unroll 1
  for (unsigned i = blockIdx.x * 32 + (threadIdx.x & 31); i < t.last.y * (kBand / 4); i += gridDim.x * 32) {
    store_shared_floats(from + i, make_float4(0, 0, 0, 0));
  }
}

__device__ __forceinline__ float not_zero(float v) {
  return v == 0 ? -0.0f : v;
}
__device__ __forceinline__ bool are_there(float4 v) {
  return min(min(__float_as_uint(v.x), __float_as_uint(v.y)), min(__float_as_uint(v.z), __float_as_uint(v.w))) != 0;
}

// Sixteen outputs of a band of y, by a warp. It reads them of all bands of all slots at the same time: four lanes a
// band, eight bands in one instruction. It adds each eighth band, and then the eight sums.
__device__ __forceinline__ void sum_one_part(const StreamArgs& a, const OneTable& t, int part) {
  constexpr int kBatch = 8, kLanes = 4, kGroups = 32 / kLanes;
  const int lane = threadIdx.x & 31, blocks = a.layer.hidden / kBand, group = lane / kLanes;
  const int block = part / kOneSumParts, column = part % kOneSumParts * (kBand / kOneSumParts) + 4 * (lane % kLanes);
  const float4* const from = down_of_launch(t) + block * (kBand / 4) + column / 4;
  const float4 none = make_float4(-0.0f, -0.0f, -0.0f, -0.0f);
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int base = group; base - group < t.items; base += kBatch * kGroups) {
    float4 v[kBatch];
#pragma unroll
    for (int q = 0; q < kBatch; ++q) v[q] = base + kGroups * q < t.items ? make_float4(0, 0, 0, 0) : none;
    bool all;
    int polls = 0;
    do {
#pragma unroll
      for (int q = 0; q < kBatch; ++q) {
        if (!are_there(v[q])) v[q] = load_shared_floats(from + (base + kGroups * q) * blocks * (kBand / 4));
      }
      all = true;
#pragma unroll
      for (int q = 0; q < kBatch; ++q) all &= are_there(v[q]);
      poll_again(++polls);
    } while (!__all_sync(kAllLanes, all));
#pragma unroll
    for (int q = 0; q < kBatch; ++q) sum = add4(sum, v[q]);
  }
#pragma unroll
  for (int distance = kLanes; distance < 32; distance *= 2) {
    sum.x += __shfl_xor_sync(kAllLanes, sum.x, distance);
    sum.y += __shfl_xor_sync(kAllLanes, sum.y, distance);
    sum.z += __shfl_xor_sync(kAllLanes, sum.z, distance);
    sum.w += __shfl_xor_sync(kAllLanes, sum.w, distance);
  }
  if (group == 0) *reinterpret_cast<float4*>(a.call.y + block * kBand + column) = sum;
}

// The first CTA whose computing warps add up: those without units and the late ones, which have few, if they are
// enough, so that the others make room for the next kernel. Else the grid's size: the serving warps of all CTAs do it.
__device__ __forceinline__ int first_summing(const StreamArgs& a, const OneTable& t) {
  const int ctas = static_cast<int>(gridDim.x), first = min(t.working, t.early_ctas);
  return (ctas - first) * kOneWarps >= a.layer.hidden / kBand * kOneSumParts ? first : ctas;
}

// The outputs of a server's units of down, transformed, scaled and weighted.
template <int kServers>
__device__ __forceinline__ void finish_one_units(const StreamArgs& a, const OneMemory& m, int server) {
  const OneTable& t = m.shared.table;
  const int lane = threadIdx.x & 31, blocks = a.layer.hidden / kBand;
#pragma unroll 1
  for (int unit = server; unit < t.count; unit += kServers) {
    const OnePiece& p = t.pieces[unit < t.pieces[1].first ? 0 : 1];
    const int block = p.block + unit - p.first;
    const uint2 svh = *reinterpret_cast<const uint2*>(a.layer.experts[p.expert].down.svh + block * kBand + 4 * lane);
    const float weight = m.shared.weights[p.slot];
    barrier_wait(&m.shared.sums_there[unit], 0);
    float v[4];
    to_array(*reinterpret_cast<const float4*>(&m.shared.sums[unit][4 * lane]), v);
    hadamard128(v);
    scale_by(v, svh);
    store_shared_floats(down_of_launch(t) + (p.item * blocks + block) * (kBand / 4) + lane,
                        make_float4(not_zero(v[0] * weight), not_zero(v[1] * weight), not_zero(v[2] * weight),
                                    not_zero(v[3] * weight)));
  }
}

// By a warp: until the row in front of the norm is there.
__device__ __forceinline__ void wait_for_one_row(const StreamArgs& a, OneShared& shared) {
  const AnnouncedRoutes& announced = a.call.announced;
  if (announced.row == nullptr) return;
  if ((threadIdx.x & 31) == 0) wait_for_value(announced.row, __ldcg(announced.turn) + 1);
  __syncwarp();
  barrier_arrive(&shared.row_there);
}

// By a warp: brings the places of sums near, of which the first access would else find out where they are.
__device__ __forceinline__ void touch_sums() {
  prefetch_line(linked_gate_up + static_cast<int>(blockIdx.x) * 2 * kLinkedUnits);
  prefetch_line(one_down + static_cast<int>(threadIdx.x & 31) * (2 * kOneDown / 32));
}

// The warps that serve the computing ones.
template <int kServers>
__device__ __forceinline__ void serve_one_run(const StreamArgs& a, const OneMemory& m, int server) {
  OneShared& shared = m.shared;
  const OneTable& t = shared.table;
  const int lane = threadIdx.x & 31;
  const bool stamps = server == 0 && lane == 0;
  if (server == 0) {
    make_one_table(a, shared);
  } else if (server == 1) {
    touch_experts(a, shared);
    touch_sums();
    wait_for_one_row(a, shared);
  }
  barrier_wait(&shared.table_there, 0);
  // All that the computing warps have not asked for: gate and up of the other units, then down, as far as it has places
  // of its own.
  const int own_down = min(t.count, shared.at.own_down), downs = (t.count + kServers - 1 - server) / kServers;
  const int first_downs = (own_down + kServers - 1 - server) / kServers;
  constexpr int kStep = kServers / 2;  // of units of gate or up
  const int gate_ups = (t.count - 1 - server / 2 + kStep - 1) / kStep;
  if (elected()) {
#pragma unroll 1
    for (int i = 0; i < gate_ups + first_downs; ++i) {
      const bool down = i >= gate_ups;
      const int unit = down ? kServers * (i - gate_ups) + server : 1 + server / 2 + kStep * i;
      OneUnitRows(m, down ? 2 : server & 1, unit).load();
      // Asked for faster than memory gives them, last units would come before others' first ones: 2.8 % of a step of
      // Qwen3-30B-A3B.
      pause_nanoseconds(200);
    }
  }
  __syncwarp();
  if (server == 0) {
    if (a.call.announced.units != nullptr) {
      wait_for_previous_kernel();  // whose data is here: but it has to be over before this one is
    }
    if (a.call.announced.row != nullptr) barrier_wait(&shared.row_there, 0);  // the turn has been read
    if (stamps && leave_launch(t.launch, a.call.announced.turn)) {
      stream_state.one = make_uint2(t.last.x + 1, static_cast<unsigned>(t.items * (a.layer.hidden / kBand)));
    }
  }
  if (first_downs < downs && elected()) {
#pragma unroll 1
    for (int i = first_downs; i < downs; ++i) {
      const int unit = kServers * i + server;
      const int both = -shared.at.step[0], place = shared.at.first[2] + unit * shared.at.step[2];
      const int last = min(shared.at.first[0] / both - place / both, t.count - 1);  // whose gate or up lies there
      barrier_wait(&shared.used[last], 0);
      if (last > 0) barrier_wait(&shared.used[last - 1], 0);  // which other warps may have
      OneUnitRows(m, 2, unit).load();
    }
  }
  __syncwarp();
  if (server == kServers - 1) clear_last_down(t);
  barrier_wait(&shared.rest_there, 0);
  if constexpr (kServers == 2 * kOnePieces) {
    make_half_middle(a, m, server % kOnePieces, server >= kOnePieces);
  } else {
    make_one_middle(a, m, server);
  }
  if (server == 0 && a.call.announced.units != nullptr) let_next_kernel_start();
  finish_one_units<kServers>(a, m, server);
  if (t.count > 0) stamp_by(stamps, a, kStampDown);
  if (first_summing(a, t) == static_cast<int>(gridDim.x)) {
#pragma unroll 1
    for (int part = static_cast<int>(blockIdx.x + server * gridDim.x); part < a.layer.hidden / kBand * kOneSumParts;
         part += static_cast<int>(kServers * gridDim.x)) {
      sum_one_part(a, t, part);
    }
  }
  if (t.count > 0) stamp_by(stamps, a, kStampSums);
  if (a.call.probe.stamps != nullptr && stamps) {
    a.call.probe.stamps[blockIdx.x * kMoeStamps + kStampLeft] = device_nanoseconds();
  }
}

template <int kColumns>
__device__ __forceinline__ void run_stream_one(const StreamArgs& a) {
  const OneMemory m(a, dynamic_shared<unsigned char>());
  OneShared& shared = m.shared;
  const int warp = threadIdx.x >> 5;
  stamp_time(a, kStampEntered);
  shared.init(a.ring_stages, a.one, OneGroup<kColumns>::kLanes);
  __syncthreads();
  if (warp >= kOneWarps) return serve_one_run<OneGroup<kColumns>::kServers>(a, m, warp - kOneWarps);
  const bool plain = a.call.norm.x == nullptr;
  if (plain) {
    wait_for_previous_kernel();
    stamp_time(a, kStampReleased);
    stamp(a, kStampStart);
  }
  const float factor = stage_one_inputs(a, m);
  stamp(a, kStampInput);
  barrier_wait(&shared.table_there, 0);
  // The first unit at once. Of the others two warps ask in time.
  const OneTable& t = shared.table;
  if (elected()) ask_for_first_unit(m, warp / kTeamWarps, warp % kTeamWarps);
  __syncwarp();
  if (a.call.announced.units == nullptr) wait_for_previous_kernel();  // which the table has waited for
  if (!plain) {
    stamp_time(a, kStampReleased);
    stamp(a, kStampStart);
  }
  stamp(a, kStampTable);
  if (t.count > 0) compute_one_run<kColumns>(a, m, factor);
  barrier_wait(&shared.rest_there, 0);
  const int first = first_summing(a, t), ctas = static_cast<int>(gridDim.x) - first;
  if (static_cast<int>(blockIdx.x) < first) return;
#pragma unroll 1
  for (int part = static_cast<int>(blockIdx.x) - first + warp * ctas; part < a.layer.hidden / kBand * kOneSumParts;
       part += kOneWarps * ctas) {
    sum_one_part(a, t, part);
  }
  stamp_time(a, kStampLeft);
}

// Threads as if there were more, for registers of 72 and 80: so that a CTA of the router has room beside one of these.
template <int kColumns>
constexpr int kOneBound = kColumns == 2 ? 896 : 768;

template <int kColumns>
__global__ void __launch_bounds__(kOneBound<kColumns>, 1) stream_one_kernel(const __grid_constant__ StreamArgs a) {
  if constexpr (kCodeHasClusters) {
    run_stream_one<kColumns>(a);
  } else {
    not_for_this_code();
  }
}

}  // namespace fairway::kernels::cuda
