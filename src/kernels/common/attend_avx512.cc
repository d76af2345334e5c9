// attend for AVX-512.
#include "kernels/common/attend.h"
#include "kernels/common/attend_generic.h"
#include "kernels/common/simd_avx512.h"

namespace fairway::kernels {

const AttendOps kAttendAvx512 = {attend_generic<SimdAvx512>, attend_finish_generic<SimdAvx512>,
                                 transpose_generic<SimdAvx512>, combine_generic<SimdAvx512>, dense_dot_avx512};

}  // namespace fairway::kernels
