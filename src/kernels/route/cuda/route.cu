// norm_and_route: which kernel serves a call.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/route/cuda/route_cuda.cuh"
#include "kernels/route/cuda/route_few.cuh"
#include "kernels/route/cuda/route_many.cuh"
#include "kernels/route/cuda/route_one.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kManyRows = 8, kManyRowsOfLong = 4;
constexpr int kFewClusters = 16;        // that have an SM for every CTA
constexpr int kLongBytes = 110 * 1024;  // of shared memory, above which a CTA takes fewer rows

void check(const RouteCall& call) {
  check_norm(call.norm, "norm_and_route");
  const std::string what = "norm_and_route: " + std::to_string(call.top_k) + " of " + std::to_string(call.experts) +
                           " experts, rows of " + std::to_string(call.norm.padded);
  if (call.experts < 1 || call.top_k < 1 || call.top_k > call.experts) {
    throw Error(ErrorKind::kUsage, what + "; expected a choice of 1 up to all of them");
  }
  if (call.experts > kMaxRoutedExperts || call.top_k > kMaxTopK || call.norm.padded > kMaxRouteColumns) {
    throw Error(ErrorKind::kUnsupported, what + "; up to " + std::to_string(kMaxTopK) + " of " +
                                             std::to_string(kMaxRoutedExperts) + " and rows up to " +
                                             std::to_string(kMaxRouteColumns) + " are possible");
  }
}

template <DenseType kType, int kChunks>
cudaError_t run_few(const RouteCall& call, cudaStream_t stream) {
  RouteFewArgs args{call, 1};
  // Several rows a cluster where else not every CTA would have an SM.
  if (kChunks == 1) {
    args.rows = std::min((call.norm.rows + kFewClusters - 1) / kFewClusters, kFewCluster);
  }
  const int clusters = (call.norm.rows + args.rows - 1) / args.rows;
  LaunchShape shape{static_cast<unsigned>(clusters * kFewCluster), kFewGroup, few_shared_bytes(call.experts, args.rows),
                    kFewCluster};
  // A second group where a thread's registers leave room for it.
  if constexpr (kChunks == 1 || (kChunks == 2 && kType != DenseType::kF32)) {
    if (few_experts_of_cta(call.experts) > kFewExperts) {
      shape.threads = 2 * kFewGroup;
      return launch(route_few_kernel<kType, kChunks, 2 * kFewGroup>, shape, stream, args);
    }
  }
  return launch(route_few_kernel<kType, kChunks, kFewGroup>, shape, stream, args);
}

// Whether the kernel for one row serves a call.
bool is_for_one(const RouteCall& call) {
  const bool softmax = call.kind == RouteKind::kSoftmaxTopK;
  return norm_is_aligned(call.norm) && is_aligned(call.weight) && gpu_features().clusters && call.norm.rows == 1 &&
         call.norm.add == nullptr && call.norm.padded <= kRouteOneColumns && call.experts <= RouteOneMemory<2>::kAll &&
         (!softmax || (call.normalize && call.selection_bias == nullptr));
}

template <DenseType kType, RouteKind kKind, int kGroups>
cudaError_t run_one(const RouteCall& call, cudaStream_t stream) {
  const LaunchShape shape{kRouteOneCluster, kGroups * kRouteOneGroup, static_cast<int>(sizeof(RouteOneMemory<kGroups>)),
                          kRouteOneCluster};
  return launch(route_one_kernel<kType, kKind, kGroups>, shape, stream, call);
}

template <DenseType kType, RouteKind kKind>
cudaError_t run_one_of(const RouteCall& call, cudaStream_t stream) {
  return call.experts <= RouteOneMemory<1>::kAll ? run_one<kType, kKind, 1>(call, stream)
                                                 : run_one<kType, kKind, 2>(call, stream);
}

template <DenseType kType, bool kAligned, int kRows>
cudaError_t run_many_by(const RouteCall& call, cudaStream_t stream) {
  const LaunchShape shape{static_cast<unsigned>((call.norm.rows + kRows - 1) / kRows), kManyThreads,
                          many_shared_bytes(kRows, call.norm.padded, call.experts)};
  return launch(route_many_kernel<kType, kAligned, kRows>, shape, stream, call);
}

template <DenseType kType, bool kAligned>
cudaError_t run_many(const RouteCall& call, cudaStream_t stream) {
  const GpuFeatures features = gpu_features();
  const auto bytes = [&](int rows) { return many_shared_bytes(rows, call.norm.padded, call.experts); };
  const bool few = !features.clusters && call.norm.rows <= sm_count();  // a CTA for each
  if (few || bytes(kManyRowsOfLong) > features.shared_bytes) return run_many_by<kType, kAligned, 1>(call, stream);
  const bool is_long = bytes(kManyRows) > std::min(kLongBytes, features.shared_bytes);
  return is_long ? run_many_by<kType, kAligned, kManyRowsOfLong>(call, stream)
                 : run_many_by<kType, kAligned, kManyRows>(call, stream);
}

template <DenseType kType>
cudaError_t run(const RouteCall& call, cudaStream_t stream) {
  if (is_for_one(call)) {
    return call.kind == RouteKind::kSoftmaxTopK ? run_one_of<kType, RouteKind::kSoftmaxTopK>(call, stream)
                                                : run_one_of<kType, RouteKind::kSigmoidBiasTopK>(call, stream);
  }
  if (!norm_is_aligned(call.norm) || !is_aligned(call.weight)) return run_many<kType, false>(call, stream);
  if (call.norm.rows > kRouteFewRows || !gpu_features().clusters) return run_many<kType, true>(call, stream);
  constexpr int kSpan = kFewGroup * kChunk;
  if (call.norm.padded <= kSpan) return run_few<kType, 1>(call, stream);
  if (call.norm.padded <= 2 * kSpan) return run_few<kType, 2>(call, stream);
  return run_few<kType, kMaxRouteColumns / kSpan>(call, stream);
}

}  // namespace

bool route_announces_row(const RouteCall& call) {
  return is_for_one(call);
}

void norm_and_route(const RouteCall& call, cudaStream_t stream) {
  check(call);
  backend::check_cuda(with_dense_type(call.type, [&](auto type) { return run<type.value>(call, stream); }),
                      "norm_and_route");
}

}  // namespace fairway::kernels::cuda
