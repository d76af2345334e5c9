// The vectorised rows of trellis_linear: the driver over the band kernels of each instruction set.
#include "kernels/trellis_linear/generic.h"
#include "kernels/trellis_linear/rows.h"

namespace fairway::kernels {

void trellis_linear_fp32acc_avx2(const TrellisLinearArgs& args, KernelContext& context) {
  run_trellis_linear(args, context,
                     {"cpu_avx2/trellis_linear_fp32acc", &kBandF32SingleAvx2, &kBandF32QuadAvx2, &kBandF32PanelAvx2});
}

void trellis_linear_fp32acc_avx512(const TrellisLinearArgs& args, KernelContext& context) {
  run_trellis_linear(
      args, context,
      {"cpu_avx512/trellis_linear_fp32acc", &kBandF32SingleAvx512, &kBandF32QuadAvx512, &kBandF32PanelAvx512});
}

void trellis_linear_int8_avx2(const TrellisLinearArgs& args, KernelContext& context) {
  run_trellis_linear(args, context,
                     {"cpu_avx2/trellis_linear", &kBandI8SingleAvx2, &kBandI8QuadAvx2, &kBandI8PanelAvx2});
}

void trellis_linear_int8_avx512(const TrellisLinearArgs& args, KernelContext& context) {
  run_trellis_linear(args, context,
                     {"cpu_avx512/trellis_linear", &kBandI8SingleAvx512, &kBandI8QuadAvx512, &kBandI8PanelAvx512});
}

}  // namespace fairway::kernels
