// Which rows `fairway verify --device cuda` runs.
#include "kernels/verify/device_check.h"

namespace fairway::verify {

std::vector<const kernels::CudaRow*> checkable_cuda_rows() {
  std::vector<const kernels::CudaRow*> rows;
  for (const char* op : {"moe_swiglu", "trellis_linear"}) {
    for (const kernels::CudaRow& row : kernels::cuda_rows_of(op)) rows.push_back(&row);
  }
  return rows;
}

}  // namespace fairway::verify
