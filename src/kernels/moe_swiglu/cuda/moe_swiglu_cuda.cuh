// The expert layer on a CUDA device: route table in, weighted sum of SwiGLU experts out, any mixture of widths and
// codebooks in one call, no host synchronisation.
//
//   y[t] = sum over slots j of weight(t, j) * down_e(silu(gate_e(x[t])) * up_e(x[t])),   e = expert(t, j)
//
// A token has top_k routed slots and, after them, one slot of weight 1 for every shared expert; a slot's index is
// t * slots_per_token + j. Slots are summed in one fixed order, so the result does not depend on the schedule: two
// calls on the same input give the same bits. All pointers are device pointers, all work is enqueued on the caller's
// stream and may be captured in a graph.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/common/cuda/announced_routes.cuh"
#include "kernels/trellis_band/cuda/trellis_ref.cuh"

namespace fairway::kernels::cuda {

// Gate and up are [hidden, intermediate], down is [intermediate, hidden]. One 128-byte line.
struct alignas(128) ExpertRef {
  TrellisRef gate, up, down;
  int intermediate;  // a multiple of 128, at most MoeLayer::max_intermediate
};

// The widest matrices of a layer, in bits.
struct MoeWidths {
  int gate = 0, up = 0, down = 0;

  constexpr void include(int gate_bits, int up_bits, int down_bits) {
    gate = gate_bits > gate ? gate_bits : gate;
    up = up_bits > up ? up_bits : up;
    down = down_bits > down ? down_bits : down;
  }
  void include(const ExpertRef& e) { include(e.gate.bits, e.up.bits, e.down.bits); }
  constexpr int largest() const {
    const int wider = gate > up ? gate : up;
    return wider > down ? wider : down;
  }
};

// What the host has to know of a layer. Routed experts come first in `experts`, shared ones after them.
struct MoeLayer {
  const ExpertRef* experts;  // [routed + shared], device memory
  int routed;                // 0..1024
  int shared;                // >= 0
  int top_k;                 // 0..32
  int hidden;                // a multiple of 128
  int max_intermediate;      // a multiple of 128
  MoeWidths widths;
  bool all_mul1;             // every matrix uses codebook mul1: integer kernels are legal
  const __half* common_suh;  // [hidden] if gate and up of all experts share these input scales, else null
};

// When a CTA's first thread passes a point of the stream kernel; a later pass overwrites an earlier one. The first
// three in nanoseconds of the device, the others in clock cycles of the SM. CTAs without work stop at kStampTable.
enum MoeStamp {
  kStampEntered,   // first instruction
  kStampReleased,  // the previous kernel is done
  kStampLeft,      // last instruction
  kStampStart,     // the same moment as kStampReleased
  kStampTable,     // the routes are known and the work is cut
  kStampInput,     // gate and up: inputs transformed and quantized; before kStampTable if they do not depend on it
  kStampGateUp,    // sums of gate and up written and announced
  kStampWaited,    // those of the other CTAs have arrived
  kStampDownInput,
  kStampDown,
  kStampSums,
};
constexpr int kMoeStamps = 11;
constexpr int kMoeMostCtas = 512;

// For measurements of the stream paths.
struct MoeProbe {
  long long* stamps = nullptr;  // [kMoeMostCtas][kMoeStamps] on the device, see MoeStamp; null for none
  bool together = false;        // a cooperative launch, which begins when there is room for all of its CTAs
  bool chained = true;          // one that may start while the kernel before it runs
};

// The RMS norm whose rows MoeCall::x has, for paths that make their inputs from what is in front of it:
//
//   x[t, 0..n) = norm.x[t] / sqrt(mean(norm.x[t]^2) + eps) * weight, zeros from n on
//
// A path that does so reads norm.x from its first instruction on, while the kernel before the call runs. So that kernel
// must not write norm.x; the one before it may, if every kernel keeps to what hopper.cuh says of chained launches, or
// says when it is there (AnnouncedRoutes::row). And it does not round the row to halves. Used if pointers are aligned
// to 16 bytes, n and ldx are multiples of 4, and the path has a use for it; x must be there in any case.
struct MoeNorm {
  const float* x = nullptr;  // [tokens, n], row stride ldx elements; null: none
  long long ldx = 0;
  const float* weight = nullptr;  // [n]
  float eps = 0;
  int n = 0;  // up to MoeLayer::hidden
};

struct MoeCall {
  const __half* x;  // [tokens, hidden], row stride ldx elements (a multiple of 4), 8-byte aligned
  long long ldx;
  const int* ids;        // [tokens, top_k]; values outside 0..routed-1 mark unused slots, which add nothing
  const float* weights;  // [tokens, top_k]
  int tokens;            // 1..max_tokens of the workspace
  float* y;              // [tokens, hidden], row stride ldy elements (a multiple of 4), 16-byte aligned; overwritten
  long long ldy;
  MoeProbe probe = {};
  MoeNorm norm = {};
  // The routes once more, by the kernel before the call, for whose end it then does not wait; the call counts their
  // turn up. Only for calls of which moe_polls_routes() is true.
  AnnouncedRoutes announced = {};
};

// How a call is computed. Choosing is the caller's business; a path is legal for every number of tokens or for none:
// the integer ones only for layers with all_mul1, any only where the current device has instructions and memory for it.
enum class MoePath {
  kIntDirect,   // two launches; every slot decodes its expert, for one token or very few; two CTAs on an SM
  kIntDirect1,  // the same with one CTA on an SM, so that the second launch's weights arrive during the first
  kIntStream,  // one launch whose CTAs wait for each other; an expert is decoded once for 4 tokens, or in calls of many
               // for 8; one large CTA on an SM
  kIntStream3,  // the same, always for 4, with three smaller CTAs on an SM
  kInt4,        // grouped; an expert is decoded once for 4 tokens
  kInt8,        //                                       8
  kHalf8,       // grouped, half-precision activations;   8
  kHalf16,      //                                       16
  kHalf32,      //                                       32
  kWide128,     // the same for up to 128 tokens, on the tensor instructions of four warps
};
constexpr int kMoePaths = 10;

const char* moe_path_name(MoePath path);
bool moe_path_legal(const MoeLayer& layer, MoePath path);
MoePath moe_default_path(const MoeLayer& layer, int tokens);  // from the mean number of rows of an expert

// Scratch of a call, 256-byte aligned; may be shared by calls that follow each other on a stream. Needs no clearing.
std::size_t moe_workspace_bytes(const MoeLayer& layer, int max_tokens);

// Whether a call on this path polls announced routes.
bool moe_polls_routes(const MoeLayer& layer, int tokens, MoePath path);

// Whether a call on this path, with announced routes, can wait for AnnouncedRoutes::row.
bool moe_polls_row(const MoeLayer& layer, int tokens, MoePath path, const MoeNorm& norm);

// On the current device. Error(kUsage) if the path is for another codebook or there is no token, Error(kUnsupported) if
// it is not legal otherwise and as require_gpu(); else as backend::check_cuda().
//
// The stream paths wait on the device for all of their CTAs, so they need every SM, if not at once. Their launches on
// one device must follow each other: on one stream, or on streams that wait for each other.
void moe_swiglu(const MoeLayer& layer, const MoeCall& call, MoePath path, void* workspace, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
