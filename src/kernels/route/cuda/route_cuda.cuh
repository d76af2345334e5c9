// The norm in front of the experts and the router behind it, in one launch: what rms_norm() of kernels/rms_norm/cuda
// computes, and with its fp32 rows before they are rounded to halves
//
//   logits[r, e] = sum over k of weight[e, k] * normed[r, k]
//   ids[r], weights[r] = route() of kernels/route/route.h, of these logits
//
// Sums are fp32 in a fixed order, which depends on whether there are few rows or many; two calls give the same bits.
// The choice follows route.h exactly: scores are double as there, so equal logits give the CPU's ids, and its weights
// to within a few units of the last place.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common/cuda/announced_routes.cuh"
#include "kernels/common/matrix.h"
#include "kernels/rms_norm/cuda/rms_norm_cuda.cuh"
#include "kernels/route/route.h"

namespace fairway::kernels::cuda {

constexpr int kMaxRoutedExperts = 1024;
constexpr int kMaxTopK = 32;
constexpr int kMaxRouteColumns = 8192;
constexpr int kRouteFewRows = 96;  // up to which a cluster of CTAs serves one row, if all is aligned

struct RouteCall {
  NormCall norm;       // n and padded at most kMaxRouteColumns
  const void* weight;  // [experts, norm.n] row-major, device memory, 2-byte aligned (16 is faster)
  DenseType type;
  int experts;  // 1..kMaxRoutedExperts
  int top_k;    // 1..min(experts, kMaxTopK)
  RouteKind kind;
  bool normalize;
  float scaling_factor;
  const float* selection_bias;     // [experts] or null
  int* ids;                        // [rows, top_k]
  float* weights;                  // [rows, top_k]
  float* logits;                   // [rows, experts] or null
  AnnouncedRoutes announced = {};  // where the choice goes too, if anywhere
  // What the kernel behind reads first, or null: of one row it is asked into the second-level cache.
  const void* read_next = nullptr;
  int read_next_bytes = 0;
};

// Whether a call can announce that its row is there, see AnnouncedRoutes::row.
bool route_announces_row(const RouteCall& call);

// Error(kUsage) if a number is out of range, Error(kUnsupported) above the limits.
void norm_and_route(const RouteCall& call, cudaStream_t stream);

}  // namespace fairway::kernels::cuda
