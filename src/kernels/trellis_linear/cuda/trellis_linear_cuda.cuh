// Trellis-coded linear layers on a CUDA device: up to four matrices that read the same x in one call, of any widths and
// codebooks.
//
//   y[r] = ((x[r] * suh) H) inner H * svh + bias   for every row r and every matrix; H: the 128-point Hadamard
//   transform
//
// All pointers are device pointers, all work is enqueued on the caller's stream and may be captured in a graph. Sums
// have one fixed order: two calls on the same input give the same bits. Weights, scales and biases are constants: they
// may be read before the kernel that precedes the call has ended. On GPUs without clusters, calls on one device must
// follow each other: on one stream, or on streams that wait for each other.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/trellis_band/cuda/trellis_ref.cuh"

namespace fairway::kernels::cuda {

// One matrix and where its product goes. Matrices are padded to multiples of 128 inputs and outputs.
struct LinearOutput {
  TrellisRef matrix;  // [LinearCall::in, out]
  int out;            // a multiple of 128
  int out_exact;      // columns of y that are written, 1..out
  const float* bias;  // [out_exact], or null
  float* y;           // [rows, out_exact], row stride ldy elements; not in the memory of x or of another output
  long long ldy;
  bool add;  // y += the product instead of y = the product
};

// Rows of fp32 whose RMS norm is the input of a call, in the terms of kernels/rms_norm/cuda/rms_norm_cuda.cuh:
//
//   sum[r] = x[r] + add[r]                                    if add; sum[r] = x[r] else
//   input[r, 0..n) = sum[r] / sqrt(mean(sum[r]^2) + eps) * weight, which is not rounded to halves before its transform
//   input[r, n..in) = 0
//
// Every pointer is null or aligned to 16 bytes, n and the strides are multiples of 4.
struct LinearNorm {
  const float* x;  // [rows, n], row stride ldx; null: the call's input is LinearCall::x
  long long ldx;
  const float* add;  // [rows, n], row stride ldadd, or null
  long long ldadd;
  const float* weight;  // [n]
  float eps;
  int n;       // 4..min(in, kMaxLinearNorm)
  float* sum;  // [rows, n], row stride ldsum, in none of the other arrays, or null: it is stored there
  long long ldsum;
};

constexpr int kMaxLinearOutputs = 4;
constexpr int kMaxLinearNorm = 16384;

struct LinearCall {
  const __half* x;  // [rows, in], row stride ldx elements (a multiple of 8), 16-byte aligned; padded with zeros
  long long ldx;
  LinearNorm norm;  // instead of x
  int in;           // a multiple of 128
  int rows;         // >= 1
  LinearOutput outputs[kMaxLinearOutputs];
  int count;      // of outputs, 1..4
  bool all_mul1;  // every matrix uses codebook mul1: integer paths are legal
  int max_bits;   // widest matrix
};

// How a call is computed. A matrix is decoded once for as many rows as the path is named after; paths but int_few and
// half_few take any number of rows.
enum class LinearPath {
  kIntFew,   // as kInt4, for up to 4 rows and so few weights that all CTAs are on the device at a time
  kHalfFew,  // as kHalf16, for up to 16 rows, likewise
  kInt4,     // one launch; 15-bit fixed-point activations, codebook mul1
  kInt8,     //
  kHalf8,    // one launch; half-precision activations, every codebook
  kHalf16,   //
  kHalf32,   // two launches, the first transforms the inputs; half precision, every codebook
  kWide128,  // the same for up to 128 rows, on the tensor instructions of four warps
};
constexpr int kLinearPaths = 8;

const char* linear_path_name(LinearPath path);
// False for integer paths where a matrix uses another codebook than mul1, for paths of one launch whose share of the
// inputs does not fit into shared memory, even if eight CTAs of a cluster share them, for int_few and half_few with
// more than 4 and 16 rows or more weights than CTAs that are on the current device at a time have room for, and for
// what the current device has no instructions for (int_few and half_few need clusters, wg_128 needs wgmma).
bool linear_path_legal(const LinearCall& call, LinearPath path);
// Whether a norm can be in front of a linear layer of `in` inputs: its alignment and sizes.
bool linear_norm_legal(const LinearNorm& norm, int in);
// And whether the path takes one for this call, on the current device: int_few, half_few, half_32 and wg_128 always,
// the other integer paths if a CTA's share of the inputs is small.
bool linear_takes_norm(const LinearCall& call, LinearPath path);
LinearPath linear_default_path(const LinearCall& call);

// Scratch of a call with any path, 256-byte aligned; may be shared by calls that follow each other on a stream. Needs
// no clearing. max_matrices: of a call.
std::size_t linear_workspace_bytes(int max_rows, int max_in, int max_matrices);

// On the current device. Error(kUsage) for sizes out of range or a path that is not legal or does not take the norm,
// Error(kUnsupported) as require_gpu() and for a path that the GPU does not have; else as backend::check_cuda().
void trellis_linear(const LinearCall& call, LinearPath path, void* workspace, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
