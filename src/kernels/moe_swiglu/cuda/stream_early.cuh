// What a stream launch does before it knows the routes, while the kernel before it still makes them: the inputs of all
// tokens, from the rows in front of the norm (MoeCall::norm). Without a norm it is done while one warp makes the table,
// from the rows that the kernel before has written. Only for calls of so few tokens that each has its own columns of
// the input operand, in whatever segment it is.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/moe_swiglu/cuda/stream_input.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostEarlyBlocks = 128;  // of the hidden size

// What the warps of an early launch wait for. Every lane of a warp arrives, which racecheck can follow.
struct EarlyBarriers {
  std::uint64_t experts;  // the loading warps have read what the experts are
  std::uint64_t table;

  __device__ void init(int loaders) {
    barrier_init(&experts, 32 * loaders);
    barrier_init(&table, 32);
    barrier_init_fence();
  }
};

// What a lane knows of its slot, and the number of the launch. By a warp, whose lanes have slots: `routed` ones the one
// at this place of the call's routes, others `other`.
struct EarlyRoute {
  unsigned launch = 0;
  uint2 one{};      // StreamState::one of the launch before
  int expert = -1;  // below 0: none

  // Takes the router's choice as it is announced, or waits for the kernel ahead.
  __device__ __forceinline__ void take(const StreamArgs& a, bool routed, int at, int other) {
    expert = other;
    unit = make_uint4(0, 0, __float_as_uint(1.0f), 0);
    if (a.call.announced.units != nullptr) {
      read_state();  // the launches before are gone
      number = __ldcg(a.call.announced.turn) + 1;
      unit.y = unit.w = routed ? number - 1 : number;  // which the others need not wait for
      poll(a, routed, at, [&] { return unit.y; });
    } else {
      wait_for_previous_kernel();
      let_next_kernel_start();
      read_state();
      if (routed) unit = make_uint4(static_cast<unsigned>(a.call.ids[at]), 0, __float_as_uint(a.call.weights[at]), 0);
    }
    const int chosen = static_cast<int>(unit.x);
    if (routed) expert = chosen >= 0 && chosen < a.layer.routed ? chosen : -1;
  }
  // The expert's, for the same `routed` and `at`: may be announced later than that, and is not read again if it was
  // not.
  __device__ __forceinline__ float weight(const StreamArgs& a, bool routed, int at) {
    if (a.call.announced.units != nullptr) poll(a, routed, at, [&] { return unit.w; });
    return __uint_as_float(unit.z);
  }

 private:
  __device__ __forceinline__ void read_state() {
    launch = launch_number();
    one = __ldcg(&stream_state.one);
  }
  template <class NumberSeen>
  __device__ __forceinline__ void poll(const StreamArgs& a, bool routed, int at, NumberSeen seen) {
    int polls = 0;
    while (!__all_sync(kAllLanes, seen() == number)) {
      if (routed) unit = load_numbered(a.call.announced.units + at);
      poll_again(++polls);
    }
  }

  unsigned number = 0;
  uint4 unit{};  // as announced
};

// The table, by the loading warps: the first one waits for the kernel before, the others return at once.
template <class Shape>
__device__ inline void make_early_table(const StreamArgs& a, StreamTable& t, ExpertTable& x, EarlyBarriers& barriers,
                                        int loader) {
  const int lane = threadIdx.x & 31, slots = a.call.tokens * a.slots_per_token;
  start_table(a, x, 32 * loader + lane, 32 * Shape::kLoaders);
  barrier_arrive(&barriers.experts);
  if (loader > 0) return;
  const int token = lane / a.slots_per_token, j = lane % a.slots_per_token;
  const bool routed = lane < slots && j < a.layer.top_k;
  const int other = lane < slots ? a.layer.routed + j - a.layer.top_k : -1;
  barrier_wait(&barriers.experts, 0);
  const int at = routed ? token * a.layer.top_k + j : 0;
  EarlyRoute route;
  route.take(a, routed, at, other);
  const float weight = route.weight(a, routed, at);
  if (lane == 0) t.launch = route.launch;
  if (lane < slots) t.weights[lane] = weight;
  make_small_table<Shape>(a, t, x, slots, route.expert);
  barrier_arrive(&barriers.table);
}

// By token and block: the sum of the squares in front of the norm, and the power of two by which halves were divided.
template <class Shape>
struct EarlyScratch {
  float squares[Shape::kTokens][kMostEarlyBlocks], unit[Shape::kTokens][kMostEarlyBlocks];
};

// Makes the operands of all tokens, each in its own columns. The norm's factor of a row joins the scale of its fixed
// point. What the kernel before last wrote does not look into the L1 cache. Ends with a barrier of the computing warps.
template <class Shape>
__device__ inline void prepare_early(const StreamArgs& a, StreamInput& in, EarlyScratch<Shape>& scratch) {
  const MoeNorm& norm = a.call.norm;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int blocks = a.layer.hidden / kBand, tokens = a.call.tokens;
  const InputUnit first(warp, blocks, tokens);
  in.set ^= 1;
  InputFacts& facts = in.facts[in.set];
  // What a lane reads for its four inputs: of the next unit while it computes one.
  struct Values {
    float4 x = {}, weight = {};
    uint2 suh = {};
  };
  const bool plain = norm.x == nullptr;
  const auto load = [&](const InputUnit& unit) {
    Values values;
    if (unit.matrix > 0) return values;
    const int k = unit.block * kBand + 4 * lane;
    values.suh = *reinterpret_cast<const uint2*>(a.layer.common_suh + k);
    if (plain) {
      float x[4];
      load_half4(a.call.x + unit.token * a.call.ldx + k, x);
      values.x = make_float4(x[0], x[1], x[2], x[3]);
      values.weight = make_float4(1, 1, 1, 1);
      return values;
    }
    if (k >= norm.n) return values;
    values.x = __ldcg(reinterpret_cast<const float4*>(norm.x + unit.token * norm.ldx + k));
    values.weight = *reinterpret_cast<const float4*>(norm.weight + k);
    return values;
  };
  Values next_values = load(first);
  float kept[4] = {};  // the first unit of a warp, of few tokens its only one, stays in registers and is not rounded
  bool is_first = true;
#pragma unroll 1
  for (InputUnit unit = first; unit.matrix < 1;) {
    const Values values = next_values;
    const InputUnit own_unit = unit;
    unit.advance(Shape::kWarps, blocks, tokens);
    next_values = load(unit);
    const float4 x = values.x, weight = values.weight;
    float v[4] = {x.x * weight.x, x.y * weight.y, x.z * weight.z, x.w * weight.w};
    scale_by(v, values.suh);
    float squares = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, x.w * x.w)));
    hadamard128_and_sum(v, squares);
    const float own = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    const int largest = __reduce_max_sync(0xFFFFFFFFu, __float_as_int(own));  // no sign: ordered as the floats are
    const int exponent = largest & 0x7F800000;
    if (lane == 0) {
      atomicMax(&facts.largest[0][own_unit.token], largest);
      scratch.squares[own_unit.token][own_unit.block] = squares;
      scratch.unit[own_unit.token][own_unit.block] = __int_as_float(exponent);
    }
    if (is_first) {
#pragma unroll
      for (int j = 0; j < 4; ++j) kept[j] = v[j];
    } else {
      const float scale = __int_as_float(0x7F000000 - exponent);  // of the block to less than 2
      *kept_halves(a, in.digits + input_column<Shape>(0, own_unit.token) * a.input_stride + own_unit.block * kBand) =
          make_uint2(as_bits(to_half2(v[0] * scale, v[1] * scale)), as_bits(to_half2(v[2] * scale, v[3] * scale)));
    }
    is_first = false;
  }
  consumer_sync<Shape::kComputeThreads>();
  float factor = 1;  // of token `warp`
  if (warp < tokens && !plain) {
    float squares = 0;
    for (int block = lane; block < blocks; block += 32) squares += scratch.squares[warp][block];
    factor = rms_factor(warp_sum(squares), norm.n, norm.eps);
  }
  const int place = fragment_order(4 * lane), next = fragment_order(4 * lane + 2);
  is_first = true;
#pragma unroll 1
  for (InputUnit unit = first; unit.matrix < 1; unit.advance(Shape::kWarps, blocks, tokens)) {
    const float largest = __int_as_float(facts.largest[0][unit.token]);
    const float of_unit = is_first ? 1.0f : scratch.unit[unit.token][unit.block];
    const float inverse = largest > 0 ? kDigitMax * __fdividef(of_unit, largest) : 0.0f;
    unsigned char* high = in.digits + input_column<Shape>(0, unit.token) * a.input_stride + unit.block * kBand;
    unsigned char* low = high + a.input_stride;
    if (!is_first) {
      const uint2 halves = *kept_halves(a, high);
      const float2 lower = __half22float2(as_half2(halves.x)), upper = __half22float2(as_half2(halves.y));
      kept[0] = lower.x;
      kept[1] = lower.y;
      kept[2] = upper.x;
      kept[3] = upper.y;
    }
    is_first = false;
    __syncwarp();
    const int own = store_digits(high + place, low + place, kept[0] * inverse, kept[1] * inverse) +
                    store_digits(high + next, low + next, kept[2] * inverse, kept[3] * inverse);
    const int sum = __reduce_add_sync(0xFFFFFFFFu, own);
    if (lane == 0) atomicAdd(&facts.digit_sum[0][unit.token], sum);
  }
  if (threadIdx.x < sizeof(InputFacts) / sizeof(int)) reinterpret_cast<int*>(in.facts + (in.set ^ 1))[threadIdx.x] = 0;
  consumer_sync<Shape::kComputeThreads>();
  if (warp < tokens && lane == 0) {  // read after the next barrier
    facts.largest[0][warp] = __float_as_int(__int_as_float(facts.largest[0][warp]) * factor);
  }
}

}  // namespace fairway::kernels::cuda
