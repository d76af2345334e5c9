// kv_b_proj for many rows: products of 128 rows and 128 outputs of a head by a CTA, weights as halves in shared memory.
#pragma once

#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/attention_mla/cuda/four_weights.cuh"
#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/attention_mla/cuda/scale_normalizer.cuh"
#include "kernels/common/cuda/hopper.cuh"
#include "kernels/common/cuda/shared_fragments.cuh"
#include "kernels/common/cuda/shared_rows.cuh"

namespace fairway::kernels::cuda {

constexpr int kManyThreads = 256, kManyRows = 128, kManyOutputs = 128, kManyDepth = 64;

// The product of one head: x [rows, depth], `x_stride` elements between rows, and out [rows, outputs] likewise.
struct ManyProduct {
  MlaUpProjection up;
  const __half* x;
  long long x_stride, x_head;  // elements between rows and between heads
  __half* out;
  long long out_stride, out_head;
  int rows, outputs, depth;
};

// kAbsorb: the stored rows are those of the sum, with a scale each; otherwise they are the outputs.
template <bool kAbsorb, UpWeight kType>
class ManyCta {
  static constexpr bool kBytes = kType == UpWeight::kByte;
  static constexpr int kXBytes = kManyRows * kManyDepth * 2, kWBytes = kManyOutputs * kManyDepth * 2;

 public:
  static constexpr int kSharedBytes = 2 * (kXBytes + kWBytes);

  __device__ explicit ManyCta(const ManyProduct& p)
      : p_(p), thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32), warp_(thread_ / 32) {
    memory_ = dynamic_shared<unsigned char>();
    const int blocks = (p.outputs + kManyOutputs - 1) / kManyOutputs;
    head_ = static_cast<int>(blockIdx.x) / blocks;
    first_ = static_cast<int>(blockIdx.x) % blocks * kManyOutputs;
    row0_ = static_cast<int>(blockIdx.y) * kManyRows;
    stored_ = static_cast<long long>(head_) * (p.up.nope + p.up.v) + (kAbsorb ? 0 : p.up.nope + first_);
    normal_ = kAbsorb && kBytes ? scale_normalizer(p.up.scales + stored_, p.up.nope) : 1.0f;
  }

  __device__ void run() {
    load_weights(0);
    wait_for_previous_kernel();
    let_next_kernel_start();
    load_x(0);
    const int chunks = (p_.depth + kManyDepth - 1) / kManyDepth;
    for (int c = 0; c < chunks; ++c) {
      if constexpr (kBytes) store_weights(c);
      copy_async_wait<0>();
      __syncthreads();  // the chunk is there, and the one before it is no longer read
      if (c + 1 < chunks) {
        load_weights(c + 1);
        load_x(c + 1);
      }
      multiply(c);
    }
    store();
  }

 private:
  __device__ SharedRows x_rows(int chunk) const {
    return {memory_ + chunk % 2 * (kXBytes + kWBytes), RowLayout::of(kManyDepth / 8)};
  }
  __device__ SharedRows w_rows(int chunk) const {
    return {memory_ + chunk % 2 * (kXBytes + kWBytes) + kXBytes,
            RowLayout::of((kAbsorb ? kManyOutputs : kManyDepth) / 8)};
  }

  __device__ void load_x(int chunk) {
    const SharedRows to = x_rows(chunk);
    const int column = thread_ % 8, k = chunk * kManyDepth + 8 * column;
    for (int r = thread_ / 8; r < kManyRows; r += kManyThreads / 8) {
      const __half* const from = p_.x + min(row0_ + r, p_.rows - 1) * p_.x_stride + head_ * p_.x_head;
      copy_async_16(to.piece(r, column), from + (k < p_.depth ? k : 0), k >= p_.depth);
    }
    copy_async_commit();
  }

  // 32 weights of a stored row: of 64 when those are outputs, of 128 when they are terms. Halves go where they belong,
  // with the copies that load_x() commits; bytes into registers.
  __device__ void load_weights(int chunk) {
    constexpr int kShare = kAbsorb ? 4 : 2;  // threads of a stored row
    const int row = thread_ / kShare, column = thread_ % kShare * 32;
    const int term = kAbsorb ? chunk * kManyDepth + row : chunk * kManyDepth + column;
    const int output = kAbsorb ? first_ + column : first_ + row;
    const long long from = (stored_ + (kAbsorb ? term : row)) * p_.up.latent + (kAbsorb ? output : term);
    const bool row_there = kAbsorb ? term < p_.depth : output < p_.outputs;
    const auto there = [&](int i) { return row_there && (kAbsorb ? output + i < p_.outputs : term + i < p_.depth); };
    if constexpr (kBytes) {
      const auto* const bytes = static_cast<const signed char*>(p_.up.weights) + from;
      for (int i = 0; i < 2; ++i) {
        bytes_[i] = there(16 * i) ? *reinterpret_cast<const uint4*>(bytes + 16 * i) : make_uint4(0, 0, 0, 0);
      }
      if (kAbsorb) scale_ = row_there ? p_.up.scales[stored_ + term] * normal_ : 0.0f;
    } else {
      const auto* const halves = static_cast<const __half*>(p_.up.weights);
      const SharedRows to = w_rows(chunk);
      for (int i = 0; i < 4; ++i) {
        copy_async_16(to.piece(row, column / 8 + i), halves + (there(8 * i) ? from + 8 * i : 0), !there(8 * i));
      }
    }
  }

  __device__ unsigned scaled(unsigned pair) const {
    if constexpr (!kAbsorb) return pair;
    const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&pair), __half2half2(__float2half_rn(scale_)));
    return *reinterpret_cast<const unsigned*>(&product);
  }

  __device__ void store_weights(int chunk) {
    constexpr int kShare = kAbsorb ? 4 : 2;
    const SharedRows to = w_rows(chunk);
    for (int i = 0; i < 2; ++i) {
      const unsigned words[4] = {biased_bytes(bytes_[i].x), biased_bytes(bytes_[i].y), biased_bytes(bytes_[i].z),
                                 biased_bytes(bytes_[i].w)};
      for (int half = 0; half < 2; ++half) {
        const unsigned a = words[2 * half], b = words[2 * half + 1];
        *reinterpret_cast<uint4*>(to.piece(thread_ / kShare, thread_ % kShare * 4 + 2 * i + half)) = make_uint4(
            scaled(halves_of_low(a)), scaled(halves_of_high(a)), scaled(halves_of_low(b)), scaled(halves_of_high(b)));
      }
    }
  }

  // A warp has 32 rows and 64 outputs.
  __device__ void multiply(int chunk) {
    const SharedRows rows = x_rows(chunk);
    const SharedRow x = rows.row(warp_ % 4 * 32 + lane_ % 16);
    using Operand = std::conditional_t<kAbsorb, RowOperand<8>, ColumnOperand<8>>;
    const Operand w(w_rows(chunk), warp_ / 4 * 64, lane_);
#pragma unroll
    for (int k = 0; k < kManyDepth / 16; ++k) {
      unsigned a[2][4], b[8][2];
      for (int i = 0; i < 2; ++i) load_matrices_x4(a[i], x.piece(2 * k + lane_ / 16) + rows.layout.bytes(16) * i);
      w.load(k, b);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) mma_half(d_[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j][0], b[j][1]);
      }
    }
  }

  __device__ void store() {
    const float back = 1.0f / normal_;
    for (int j = 0; j < 8; ++j) {
      const int column = warp_ / 4 * 64 + 8 * j + 2 * (lane_ % 4), output = first_ + column;
      if (output >= p_.outputs) break;
      const float scale0 = kAbsorb ? back : FourWeights<kType>::scale(p_.up, stored_ + column);
      const float scale1 = kAbsorb ? back : FourWeights<kType>::scale(p_.up, stored_ + column + 1);
      for (int i = 0; i < 4; ++i) {
        const int row = row0_ + warp_ % 4 * 32 + 8 * i + lane_ / 4;
        if (row >= p_.rows) break;
        *reinterpret_cast<__half2*>(p_.out + row * p_.out_stride + head_ * p_.out_head + output) =
            __floats2half2_rn(d_[i / 2][j][i % 2 * 2] * scale0, d_[i / 2][j][i % 2 * 2 + 1] * scale1);
      }
    }
  }

  const ManyProduct& p_;
  const int thread_, lane_, warp_;
  unsigned char* memory_;
  int head_, first_, row0_;
  long long stored_;  // first stored row
  float normal_, scale_ = 1.0f;
  uint4 bytes_[2];
  float d_[2][8][4] = {};
};

template <bool kAbsorb, UpWeight kType>
__global__ void __launch_bounds__(kManyThreads, 2) project_many(const __grid_constant__ ManyProduct product) {
  ManyCta<kAbsorb, kType>(product).run();
}

}  // namespace fairway::kernels::cuda
