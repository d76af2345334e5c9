// The instances of the kernel for latent attention of decode steps.
#include "backend/cuda/check.cuh"
#include "kernels/common/cuda/attend_latent.cuh"
#include "kernels/common/cuda/attend_link.cuh"

namespace fairway::kernels::cuda {
namespace {

template <CacheType kType>
__global__ void __maxnreg__(kLatentRegisters) attend_latent(const __grid_constant__ AttendArgs args) {
  if constexpr (kCodeHasWgmma) {
    LatentAttendCta<kType>(args).run();
  } else {
    not_for_this_code();
  }
}

constexpr int kLinkedSms = 144;
constexpr int kLinkedResults = kLatentQueries * kLinkedSms;  // of a query and a split
__device__ uint4 linked_partial[(kLinkedResults + kLinkSplits) * kLinkPieces];
__device__ uint4 linked_weights[(kLinkedResults + kLinkSplits) * (kLinkReaders / 4)];

}  // namespace

void link_latent(AttendPlan& plan) {
  AttendArgs& args = plan.args;
  if (!plan.is_latent || args.splits > kLinkSplits ||
      args.call.rows.count * args.call.heads * args.splits > kLinkedResults)
    return;
  void *partial = nullptr, *weights = nullptr;
  backend::check_cuda(cudaGetSymbolAddress(&partial, linked_partial), "link_latent");
  backend::check_cuda(cudaGetSymbolAddress(&weights, linked_weights), "link_latent");
  args.partial = static_cast<__half*>(partial);
  args.weights = static_cast<float*>(weights);
  args.linked = true;
}

AttendKernel attend_kernel_latent(CacheType type) {
  return {type == CacheType::kHalf ? attend_latent<CacheType::kHalf> : attend_latent<CacheType::kE4m3>, kLatentQueries,
          1, latent_shared_bytes};
}

bool latent_fits(const AttendCall& call) {
  return call.kv_heads == 1 && call.heads <= kLatentQueries && call.value_offset == call.key_offset &&
         call.value_dim % kLatentBlock == 0 && call.value_dim < call.key_dim &&
         (!call.one_sequence || call.rows.count == 1);
}

}  // namespace fairway::kernels::cuda
