// q_b_proj with the norm in front of it for one row of one head, by a cluster: each CTA computes 32 of the head's
// outputs over all inputs, and sends them to the others. Coded weights are on their way before the kernel ahead has
// ended. The code is short, because it runs once.
//
// Every block of 128 inputs has a fixed point of its own, so that its warp makes the digits without asking the others;
// the norm's factor joins when the sums are there.
#pragma once

#include "kernels/attention_mla/cuda/mla_absorb_one.cuh"
#include "kernels/attention_mla/cuda/mla_decode.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/trellis_band/cuda/int_band.cuh"
#include "kernels/trellis_band/cuda/one_row_digits.cuh"
#include "kernels/trellis_linear/cuda/linear_norm.cuh"

namespace fairway::kernels::cuda {

constexpr int kQueryBlocks = kOneWarps;  // of inputs, most: a warp stages one
constexpr int kQueryTiles = 2;           // side by side, of a CTA
constexpr int kQueryOutputs = 16 * kQueryTiles;
constexpr int kQueryHead = kQueryOutputs * kOneCluster;  // outputs of a head, most
constexpr int kQueryParts = kOneWarps / kQueryTiles;     // warps that share the inputs of 16 outputs
constexpr int kQueryRows = 4;                            // tile rows that a warp multiplies at a time
static_assert(kQueryHead == kOneNope);

__host__ __device__ constexpr int query_coded_bytes(int in, int bits) {
  return in * kQueryOutputs / 8 * bits;
}
// Coded weights, and behind them the digits of the inputs, see store_one_digits().
__host__ __device__ constexpr int query_operand_bytes(int in, int bits) {
  return query_coded_bytes(in, bits) + in / 16 * kOneRowDigits;
}

struct alignas(16) QueryOneMemory {
  std::uint64_t weights_there, outputs_sent;  // barriers
  // Of each block: what its digits are multiples of, their share of the codebook's bias, squares in front of the norm.
  float unit[kQueryBlocks], bias[kQueryBlocks], squares[kQueryBlocks];
  float parts[kQueryParts][kQueryOutputs];  // over a warp's inputs
  float outputs[kQueryHead];                // of all CTAs, before their transform
};

// kWidth: outputs of a head, or 0 for anything.
template <UpWeight kUp, int kWidth>
class QueryOne {
 public:
  __device__ __forceinline__ QueryOne(const MlaQuery& query, const MlaPrepare& prepare, int head, int rank,
                                      QueryOneMemory& memory, unsigned char* operands)
      : q_(query),
        p_(prepare),
        memory_(memory),
        coded_(operands),
        width_(kWidth > 0 ? kWidth : prepare.nope + prepare.angles.dim),
        head_(head),
        rank_(rank),
        warp_(static_cast<int>(threadIdx.x / 32)),
        lane_(static_cast<int>(threadIdx.x % 32)) {}

  // By one thread, before the cluster meets.
  __device__ __forceinline__ void init() const {
    barrier_init(&memory_.weights_there, 1);
    barrier_init(&memory_.outputs_sent, 1);
  }
  __device__ __forceinline__ void expect() const {
    if (computes()) barrier_expect(&memory_.weights_there, query_coded_bytes(q_.in, q_.matrix.bits));
    barrier_expect(&memory_.outputs_sent, 4 * width_);
  }

  // By a warp that knows of expect(): asks for the coded weights.
  __device__ __forceinline__ void load_weights() const {
    if (!computes()) return;
    const int bits = q_.matrix.bits, piece = 2 * kQueryOutputs * bits;
    const long long row_bytes = 2LL * p_.heads * width_ * bits;
    const unsigned char* const from = q_.matrix.words + 2LL * (head_ * width_ + rank_ * kQueryOutputs) * bits;
#pragma unroll 1
    for (int row = lane_; row < q_.in / 16; row += 32) {
      bulk_load(coded_ + row * piece, from + row * row_bytes, piece, &memory_.weights_there);
    }
  }

  // What else is constant, into registers. Nothing waits for it here.
  template <class Absorb>
  __device__ __forceinline__ void load(const MlaUpProjection& up, const Absorb& absorb) {
    const int k = warp_ * kBand + 4 * lane_;
    place_ = LanePlace(q_.matrix.bits, lane_);
    if (k < q_.norm.n) {
      weight_ = *reinterpret_cast<const float4*>(q_.norm.weight + k);
      suh_ = *reinterpret_cast<const uint2*>(q_.matrix.suh + k);
    }
    if (k >= width_) return;
    svh_ = *reinterpret_cast<const uint2*>(q_.matrix.svh + head_ * width_ + k);
    for (int j = 0; j < 4; ++j) up_scale_[j] = k + j < up.nope ? absorb.scale(up, k + j) : 1.0f;
  }

  // After the wait for the kernel ahead. Between this and multiply() a barrier.
  __device__ __forceinline__ void stage() const {
    const int k = warp_ * kBand + 4 * lane_;
    float unit = 0, bias = 0, squares = 0;
    if (warp_ * kBand < q_.in) {
      float4 x = make_float4(0, 0, 0, 0);
      if (k < q_.norm.n) x = __ldcg(reinterpret_cast<const float4*>(q_.norm.x + k));
      const float2 low = __half22float2(as_half2(suh_.x)), high = __half22float2(as_half2(suh_.y));
      float v[4] = {x.x * (weight_.x * low.x), x.y * (weight_.y * low.y), x.z * (weight_.z * high.x),
                    x.w * (weight_.w * high.y)};
      squares = add_squares(0.0f, x);
      hadamard128_and_sum(v, squares);
      const OneBlock block = store_one_block(digits() + warp_ * kOneBlockDigits, v);
      unit = block.unit;
      bias = unit * (kMul1Bias * static_cast<float>(block.sum));
    }
    if (lane_ == 0) memory_.unit[warp_] = unit, memory_.bias[warp_] = bias, memory_.squares[warp_] = squares;
  }

  // Between this and send() a barrier.
  __device__ __forceinline__ void multiply() const {
    if (!computes()) return;
    barrier_wait(&memory_.weights_there, 0);
    float sum[2] = {};
    walk_any<1, 8>(sum);
    if (lane_ % 4 != 0) return;
    float* const part = memory_.parts[warp_ / kQueryTiles] + 16 * (warp_ % kQueryTiles) + lane_ / 4;
    part[0] = sum[0];
    part[8] = sum[1];
  }

  // By the first threads: four outputs for a CTA each.
  __device__ __forceinline__ void send() const {
    constexpr int kWords = kQueryOutputs / 4;
    const int word = static_cast<int>(threadIdx.x % kWords), to = static_cast<int>(threadIdx.x / kWords);
    if (to >= kOneCluster || !computes()) return;
    float squares = 0, bias = 0;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kOneWarps; ++w) {
      squares += memory_.squares[w];
      bias += memory_.bias[w];
    }
#pragma unroll
    for (int i = 0; i < kQueryParts; ++i) {
      const float4 part = *reinterpret_cast<const float4*>(&memory_.parts[i][4 * word]);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    const float factor = norm_factor(q_.norm, squares);
    send_to_cluster(reinterpret_cast<float4*>(&memory_.outputs[rank_ * kQueryOutputs + 4 * word]),
                    &memory_.outputs_sent, to,
                    make_float4(factor * fmaf(kMul1Scale, sum.x, bias), factor * fmaf(kMul1Scale, sum.y, bias),
                                factor * fmaf(kMul1Scale, sum.z, bias), factor * fmaf(kMul1Scale, sum.w, bias)));
  }

  // By all warps: the head's query, what kv_b_proj takes times its scales. Ends with a barrier.
  __device__ __forceinline__ void receive(float* scaled) const {
    if (warp_ * kBand < width_) {
      const int k = warp_ * kBand + 4 * lane_;
      barrier_wait_cluster(&memory_.outputs_sent, 0);
      const float4 output = *reinterpret_cast<const float4*>(&memory_.outputs[k]);
      float v[4] = {output.x, output.y, output.z, output.w};
      hadamard128(v);
      const float2 low = __half22float2(as_half2(svh_.x)), high = __half22float2(as_half2(svh_.y));
      *reinterpret_cast<float4*>(scaled + k) = make_float4(v[0] * low.x * up_scale_[0], v[1] * low.y * up_scale_[1],
                                                           v[2] * high.x * up_scale_[2], v[3] * high.y * up_scale_[3]);
    }
    __syncthreads();
  }

 private:
  __device__ __forceinline__ unsigned char* digits() const {
    return coded_ + query_coded_bytes(q_.in, q_.matrix.bits);
  }
  // A head of 128 outputs has work for half of the CTAs.
  __device__ __forceinline__ bool computes() const {
    return rank_ * kQueryOutputs < width_;
  }

  // Halves the widths that are left until it has the matrix's: a switch would read a table of jumps, from far.
  template <int kFirst, int kLast>
  __device__ __forceinline__ void walk_any(float (&sum)[2]) const {
    if constexpr (kFirst == kLast) {
      walk<kFirst>(sum);
    } else {
      constexpr int kMiddle = (kFirst + kLast) / 2;
      if (q_.matrix.bits <= kMiddle) {
        walk_any<kFirst, kMiddle>(sum);
      } else {
        walk_any<kMiddle + 1, kLast>(sum);
      }
    }
  }

  // A warp has 16 outputs, and every kQueryParts-th four of their tile rows.
  template <int kBits>
  __device__ __forceinline__ void walk(float (&sum)[2]) const {
    constexpr int kRowBytes = 32 * kBits * kQueryTiles;
    const LaneStream<kBits> stream(place_);
    const int part = warp_ / kQueryTiles, fours = q_.in / (16 * kQueryRows);
    const unsigned char* const tiles = coded_ + warp_ % kQueryTiles * 32 * kBits;
    const unsigned char* const in = digits() + one_digits_place();
#pragma unroll 1
    for (int four = part; four < fours; four += kQueryParts) {
      int acc[2][4] = {};
      multiply_one_column<kQueryRows>(stream, tiles + four * kQueryRows * kRowBytes, kRowBytes,
                                      in + four * kQueryRows * kOneRowDigits, acc);
      const float unit = memory_.unit[four * kQueryRows / kBandTiles];
#pragma unroll
      for (int i = 0; i < 2; ++i) sum[i] = fmaf(unit, static_cast<float>(one_digit_sum(acc, i)), sum[i]);
    }
  }

  const MlaQuery& q_;
  const MlaPrepare& p_;
  QueryOneMemory& memory_;
  unsigned char* const coded_;
  const int width_, head_, rank_, warp_, lane_;
  LanePlace place_;
  float4 weight_ = {};  // of the norm, of the lane's inputs
  uint2 suh_ = {};
  uint2 svh_ = {};     // of its outputs
  float up_scale_[4];  // the same, of kv_b_proj
};

}  // namespace fairway::kernels::cuda
