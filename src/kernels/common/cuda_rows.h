// What the CUDA kernels say about themselves. The rows are in cuda_rows.inc and nowhere else. They are apart from
// all_kernel_rows(), from which the CPU's selection chooses; what a device computes a call with is a path, chosen by a
// tuned table or by a rule on its sizes. Compiles without a CUDA toolkit.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kernels/common/registry.h"

namespace fairway::kernels {

// What a matrix product of a CUDA kernel reads: kInt15 is fixed point of 15 bits, of two bytes each.
enum class CudaActivations : std::uint8_t { kFp32, kFp16, kInt15 };

struct CudaRow {
  const char* id;      // "cuda_sm90/moe_trellis_swiglu_decode/int_direct": backend, family, path
  const char* op;      // folder under src/kernels
  const char* family;  // the name users know
  const char* path;    // among the rows of the family
  const char* source;  // file of the body, relative to the repository
  WeightKind weights;
  CudaActivations activations;
  Numerics numerics;
  std::uint8_t codebooks;  // union of codebook_bit, 0 for rows that read no trellis
  int tile_rows;           // rows of x that share a decode, 0 for rows that decode nothing

  bool integer() const { return activations == CudaActivations::kInt15; }
};

constexpr const char* kCudaBackend = "cuda_sm90";
const char* cuda_activations_name(CudaActivations activations);  // "fp32", "fp16", "int15"

std::span<const CudaRow> cuda_rows();
std::span<const CudaRow> cuda_rows_of(std::string_view op);  // in the order of the op's paths

// Why a row cannot run on a device, as a sentence without a full stop; "" if it can.
std::string cuda_row_refusal(const CudaRow& row, int device);

// Why none of the rows can run here, as a sentence without a full stop; "" if they can, on some device.
std::string cuda_rows_absence_reason();
// Why this one cannot.
std::string cuda_row_absence_reason(const CudaRow& row);

}  // namespace fairway::kernels
