// The instances of the kernel for latent attention of decode steps.
#include "kernels/common/cuda/attend_latent.cuh"

namespace fairway::kernels::cuda {

AttendKernel attend_kernel_latent(CacheType type) {
  return type == CacheType::kHalf ? latent_instance<CacheType::kHalf>() : latent_instance<CacheType::kE4m3>();
}

bool latent_fits(const AttendCall& call) {
  return call.kv_heads == 1 && call.heads <= kLatentQueries && call.value_offset == call.key_offset &&
         call.value_dim % kLatentBlock == 0 && call.value_dim <= call.key_dim && call.key_dim > kLatentBlock &&
         (!call.one_sequence || call.rows.count == 1);
}

}  // namespace fairway::kernels::cuda
