// The table, and whether this machine has a device for it.
#include "kernels/common/cuda_rows.h"

#include <algorithm>

#include "backend/cuda/device.h"
#include "kernels/common/cuda/gpu_features.h"

namespace fairway::kernels {
namespace {

struct Format {
  WeightKind weights;
  CudaActivations activations;
  Numerics numerics;
  std::uint8_t codebooks;
};
constexpr Format kCudaInt15{WeightKind::kTrellis, CudaActivations::kInt15, Numerics::kBounded,
                            codebook_bit(codec::Codebook::kMul1)};
constexpr Format kCudaHalf{WeightKind::kTrellis, CudaActivations::kFp16, Numerics::kBounded, kAllCodebooks};
constexpr Format kCudaDense{WeightKind::kDense, CudaActivations::kFp16, Numerics::kBounded, 0};
constexpr Format kCudaRouter{WeightKind::kDense, CudaActivations::kFp32, Numerics::kBounded, 0};
constexpr Format kCudaTable{WeightKind::kDense, CudaActivations::kFp32, Numerics::kExact, 0};
constexpr Format kCudaAttend{WeightKind::kNone, CudaActivations::kFp16, Numerics::kBounded, 0};
constexpr Format kCudaFloats{WeightKind::kNone, CudaActivations::kFp32, Numerics::kBounded, 0};
constexpr Format kCudaExact{WeightKind::kNone, CudaActivations::kFp32, Numerics::kExact, 0};

#define FAIRWAY_CUDA_KERNEL(op, family, path, format, tile_rows, source) \
  {"cuda_sm90/" family "/" path,                                         \
   op,                                                                   \
   family,                                                               \
   path,                                                                 \
   "src/kernels/" source,                                                \
   (format).weights,                                                     \
   (format).activations,                                                 \
   (format).numerics,                                                    \
   (format).codebooks,                                                   \
   tile_rows},
constexpr CudaRow kRows[] = {
#include "kernels/common/cuda_rows.inc"
};
#undef FAIRWAY_CUDA_KERNEL

// "" if a device has no refusal, else that of the last one, or why there is no device.
template <class Refusal>
std::string absence_reason(const Refusal& refusal_of) {
  std::string reason = backend::cuda_absence_reason();
  for (int device = 0; device < backend::cuda_device_count(); ++device) {
    reason = refusal_of(device);
    if (reason.empty()) break;
  }
  return reason;
}

}  // namespace

const char* cuda_activations_name(CudaActivations activations) {
  switch (activations) {
    case CudaActivations::kFp32:
      return "fp32";
    case CudaActivations::kFp16:
      return "fp16";
    case CudaActivations::kInt15:
      return "int15";
  }
  return "unknown";
}

std::span<const CudaRow> cuda_rows() {
  return kRows;
}

std::span<const CudaRow> cuda_rows_of(std::string_view op) {
  const auto is_of = [&](const CudaRow& row) { return op == row.op; };
  const CudaRow* const begin = std::find_if(std::begin(kRows), std::end(kRows), is_of);
  return {begin, std::find_if_not(begin, std::end(kRows), is_of)};
}

std::string cuda_rows_absence_reason() {
  return absence_reason([](int device) { return cuda::gpu_refusal(device); });
}

std::string cuda_row_absence_reason(const CudaRow& row) {
  return absence_reason([&](int device) { return cuda_row_refusal(row, device); });
}

std::string cuda_row_refusal(const CudaRow& row, int device) {
  if (std::string refusal = cuda::gpu_refusal(device); !refusal.empty()) return refusal;
  const cuda::GpuFeatures features = cuda::gpu_features_of(device);
  const std::string_view path = row.path;
  if (path == "wg_128" && !features.wgmma) return "needs the tensor instructions of generation 9.0";
  if (path.ends_with("_few") && !features.clusters) return "needs the clusters of generation 9.0 and later";
  return "";
}

}  // namespace fairway::kernels
