// The instances of the kernel for latent attention of decode steps.
#include <type_traits>

#include "kernels/common/cuda/attend_latent.cuh"

namespace fairway::kernels::cuda {
namespace {

template <CacheType kType, bool kUsual>
__global__ void __maxnreg__(kLatentRegisters) attend_latent(const __grid_constant__ AttendArgs args) {
  if constexpr (kCodeHasWgmma) {
    LatentAttendCta<kType, kUsual>(args).run();
  } else {
    not_for_this_code();
  }
}

}  // namespace

AttendKernel attend_kernel_latent(const AttendCall& call) {
  const auto of_type = [&](auto usual) {
    constexpr bool kUsual = decltype(usual)::value;
    return call.cache.type == CacheType::kHalf ? attend_latent<CacheType::kHalf, kUsual>
                                               : attend_latent<CacheType::kE4m3, kUsual>;
  };
  const bool is_usual = call.key_dim == kUsualKey && call.value_dim == kUsualValue;
  return {is_usual ? of_type(std::true_type{}) : of_type(std::false_type{}), kLatentQueries, 1, latent_shared_bytes};
}

bool latent_fits(const AttendCall& call) {
  return call.kv_heads == 1 && call.heads <= kLatentQueries && call.value_offset == call.key_offset &&
         call.value_dim % kLatentBlock == 0 && call.value_dim < call.key_dim && call.scale > 0 &&
         (!call.one_sequence || call.rows.count == 1);
}

}  // namespace fairway::kernels::cuda
