// The expert layer on a CUDA device: route table in, weighted sum of SwiGLU experts out, any mixture of widths and
// codebooks in one call, no host synchronisation.
//
//   y[t] = sum over slots j of weight(t, j) * down_e(silu(gate_e(x[t])) * up_e(x[t])),   e = expert(t, j)
//
// A token has top_k routed slots and, after them, one slot of weight 1 for every shared expert; a slot's index is
// t * slots_per_token + j. Slots are summed in that order, so the result does not depend on the schedule: two calls on
// the same input give the same bits. All pointers are device pointers, all work is enqueued on the caller's stream and
// may be captured in a graph. Compute capability 9.0.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

namespace fairway::kernels::cuda {

// One trellis matrix: y = x W with W = diag(suh) H inner H diag(svh), inner [in, out] in 16 x 16 tiles.
struct TrellisRef {
  const unsigned char* words;  // [in/16][out/16][32 * bits] bytes as on disk, 16-byte aligned
  const __half* suh;           // [in], 8-byte aligned
  const __half* svh;           // [out], 8-byte aligned
  int bits;                    // 1..8
  int codebook;                // codec::Codebook
};

// Gate and up are [hidden, intermediate], down is [intermediate, hidden]. One 128-byte line.
struct alignas(128) ExpertRef {
  TrellisRef gate, up, down;
  int intermediate;  // a multiple of 128, at most MoeLayer::max_intermediate
};

// What the host has to know of a layer. Routed experts come first in `experts`, shared ones after them.
struct MoeLayer {
  const ExpertRef* experts;  // [routed + shared], device memory
  int routed;                // 0..1024
  int shared;                // >= 0
  int top_k;                 // 0..32
  int hidden;                // a multiple of 128
  int max_intermediate;      // a multiple of 128
  int max_bits;              // widest matrix of the layer
  bool all_mul1;             // every matrix uses codebook mul1: integer kernels are legal
  const __half* common_suh;  // [hidden] if gate and up of all experts share these input scales, else null
};

struct MoeCall {
  const __half* x;  // [tokens, hidden], row stride ldx elements (a multiple of 4), 8-byte aligned
  long long ldx;
  const int* ids;        // [tokens, top_k]; values outside 0..routed-1 mark unused slots, which add nothing
  const float* weights;  // [tokens, top_k]
  int tokens;            // 1..max_tokens of the workspace
  float* y;              // [tokens, hidden], row stride ldy elements (a multiple of 4), 16-byte aligned; overwritten
  long long ldy;
};

// How a call is computed. Choosing is the caller's business; every path is legal for every number of tokens, the
// integer ones only for layers with all_mul1.
enum class MoePath {
  kIntDirect,   // two launches; every slot decodes its expert, for one token or very few; two CTAs on an SM
  kIntDirect1,  // the same with one CTA on an SM, so that the second launch's weights arrive during the first
  kInt4,        // grouped; an expert is decoded once for 4 tokens
  kInt8,        //                                       8
  kHalf8,       // grouped, half-precision activations;   8
  kHalf16,      //                                       16
  kHalf32,      //                                       32
  kHalf64,      //                                       64
};
constexpr int kMoePaths = 8;

const char* moe_path_name(MoePath path);
bool moe_path_legal(const MoeLayer& layer, MoePath path);
MoePath moe_default_path(const MoeLayer& layer, int tokens);  // from the expected number of tokens of an expert

// Scratch of a call, 256-byte aligned; may be shared by calls that follow each other on a stream. Needs no clearing.
std::size_t moe_workspace_bytes(const MoeLayer& layer, int max_tokens);

// On the current device. Error(kUnsupported) if that is not of compute capability 9.0, Error(kUsage) if the path is not
// legal for the layer or there is no token; else as backend::check_cuda().
void moe_swiglu(const MoeLayer& layer, const MoeCall& call, MoePath path, void* workspace, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
