// attend for AVX2.
#include "kernels/common/attend.h"
#include "kernels/common/attend_generic.h"
#include "kernels/common/simd_avx2.h"

namespace fairway::kernels {

const AttendOps kAttendAvx2 = {attend_generic<SimdAvx2>, attend_finish_generic<SimdAvx2>, transpose_generic<SimdAvx2>,
                               combine_generic<SimdAvx2>, dense_dot_avx2};

}  // namespace fairway::kernels
