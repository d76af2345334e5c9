// What a stream launch does before it knows the routes, while the kernel before it still makes them: the inputs of all
// tokens, from the rows in front of the norm (MoeCall::norm), and gate and up of the shared experts, which every token
// has. Only for calls of so few tokens that each has its own columns of the input operand, in whatever segment it is.
#pragma once

#include "kernels/common/cuda/reduce.cuh"
#include "kernels/moe_swiglu/cuda/stream_input.cuh"
#include "kernels/moe_swiglu/cuda/stream_load.cuh"

namespace fairway::kernels::cuda {

constexpr int kMostEarlyBlocks = 128;  // of the hidden size

// What a CTA has of gate and up of the shared experts; count = 0: nothing.
struct EarlyPiece {
  int expert = 0, bands = 0, bits = 0;  // bits: as StreamSegment
  Piece piece;
};

__device__ inline EarlyPiece early_piece(const StreamArgs& a, const ExpertTable& x) {
  EarlyPiece early;
  if (a.early_units == 0) return early;
  int band = static_cast<int>(blockIdx.x) / a.early_parts;
  early.piece.begin = (static_cast<int>(blockIdx.x) - band * a.early_parts) * a.early_units;
  for (int e = a.layer.routed; e < a.layer.routed + a.layer.shared; ++e) {
    early.expert = e;
    early.bands = bands_of(x.facts[e]);
    early.bits = bits_of(x.facts[e]);
    early.piece.band = band;
    if (band < early.bands) {
      early.piece.count = a.early_units;
      break;
    }
    band -= early.bands;
  }
  return early;
}

// A loading warp: its rows of what is done early. The ring has room for all of it.
template <class Shape>
__device__ inline void load_early(const StreamArgs& a, const EarlyPiece& early, int loader, RingCursor& ring) {
  static_assert(Shape::kTeams == 2);
  if (early.piece.count == 0) return;
  constexpr int kRows = kBandTiles * Shape::kTeams / Shape::kLoaders;
  const ExpertRef& e = a.layer.experts[early.expert];
  UnitSource<kRows>(loader % 2 == 0 ? e.gate : e.up, early.bands * kBand, early.piece.band, early.piece.begin,
                    loader / 2 * kRows)
      .load(ring, early.piece.count);
}

// The table, by one warp, which waits for the kernel before.
template <class Shape>
__device__ inline void make_early_table(const StreamArgs& a, StreamTable& t, const ExpertTable& x) {
  const int lane = threadIdx.x & 31, tokens = a.call.tokens, routed = tokens * a.layer.top_k;
  const int slots = tokens * a.slots_per_token;
  int slot = 0, expert = -1;  // shared experts' slots come last
  if (lane < routed) {
    const int token = lane / a.layer.top_k;
    slot = token * a.slots_per_token + lane - token * a.layer.top_k;
  } else if (lane < slots) {
    const int j = (lane - routed) / tokens;
    slot = (lane - routed - j * tokens) * a.slots_per_token + a.layer.top_k + j;
    expert = a.layer.routed + j;
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  const unsigned launch = launch_number();
  if (lane < routed) {
    const int id = a.call.ids[lane];
    if (id >= 0 && id < a.layer.routed) expert = id;
  }
  if (lane == 0) t.launch = launch;
  make_small_table<Shape>(a, t, x, slots, slot, expert);
  __syncwarp();
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
#pragma unroll 1
  for (InputUnit unit = first; unit.matrix < 1; unit.advance(Shape::kWarps, blocks, tokens)) {
    const int k = unit.block * kBand + 4 * lane;
    float4 x = make_float4(0, 0, 0, 0), weight = x;
    if (k < norm.n) {
      x = __ldcg(reinterpret_cast<const float4*>(norm.x + unit.token * norm.ldx + k));
      weight = *reinterpret_cast<const float4*>(norm.weight + k);
    }
    float v[4] = {x.x * weight.x, x.y * weight.y, x.z * weight.z, x.w * weight.w};
    scale_by(v, *reinterpret_cast<const uint2*>(a.layer.common_suh + k));
    hadamard128(v);
    const float squares = warp_sum(fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, x.w * x.w))));
    const float own = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
    const int largest = __reduce_max_sync(0xFFFFFFFFu, __float_as_int(own));  // no sign: ordered as the floats are
    const int exponent = largest & 0x7F800000;
    if (lane == 0) {
      atomicMax(&facts.largest[0][unit.token], largest);
      scratch.squares[unit.token][unit.block] = squares;
      scratch.unit[unit.token][unit.block] = __int_as_float(exponent);
    }
    const float scale = __int_as_float(0x7F000000 - exponent);  // of the block to less than 2
    *kept_halves(a, in.digits + input_column<Shape>(0, unit.token) * a.input_stride + unit.block * kBand) =
        make_uint2(as_bits(to_half2(v[0] * scale, v[1] * scale)), as_bits(to_half2(v[2] * scale, v[3] * scale)));
  }
  consumer_sync<Shape::kComputeThreads>();
  float factor = 0;  // of token `warp`
  if (warp < tokens) {
    float squares = 0;
    for (int block = lane; block < blocks; block += 32) squares += scratch.squares[warp][block];
    factor = rsqrtf(__fdividef(warp_sum(squares), static_cast<float>(norm.n)) + norm.eps);
  }
  const int place = fragment_order(4 * lane), next = fragment_order(4 * lane + 2);
#pragma unroll 1
  for (InputUnit unit = first; unit.matrix < 1; unit.advance(Shape::kWarps, blocks, tokens)) {
    const float largest = __int_as_float(facts.largest[0][unit.token]);
    const float inverse = largest > 0 ? kDigitMax * __fdividef(scratch.unit[unit.token][unit.block], largest) : 0.0f;
    unsigned char* high = in.digits + input_column<Shape>(0, unit.token) * a.input_stride + unit.block * kBand;
    unsigned char* low = high + a.input_stride;
    const uint2 halves = *kept_halves(a, high);
    __syncwarp();
    const int own = store_digits(high + place, low + place, halves.x, inverse) +
                    store_digits(high + next, low + next, halves.y, inverse);
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
