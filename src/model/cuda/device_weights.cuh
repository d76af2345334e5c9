// A model's weights in device memory, as the kernels take them.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <vector>

#include "kernels/attention_mla/cuda/mla_projection.cuh"
#include "kernels/common/matrix.h"
#include "kernels/moe_swiglu/cuda/moe_swiglu_cuda.cuh"
#include "kernels/route/route.h"

namespace fairway::model {

// A linear layer of either kind; `in` and `out` are the model's sizes, without padding.
struct DeviceLinear {
  int in = 0, out = 0;
  bool is_trellis = false;
  kernels::cuda::TrellisRef trellis{};
  int trellis_in = 0, trellis_out = 0;  // padded to multiples of 128
  kernels::DenseMatrix dense;           // data is device memory
  const float* bias = nullptr;
};

struct DeviceMla {
  DeviceLinear q_a, q_b, kv_a, o;  // q_a is unused if q_lora_rank is 0
  const float* q_a_norm = nullptr;
  const float* kv_a_norm = nullptr;
  kernels::cuda::MlaUpProjection kv_b{};
};

struct DeviceGqa {
  DeviceLinear q, k, v, o;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
};

// top_k 0: no router, the dense MLP is a shared expert.
struct DeviceRouter {
  kernels::DenseMatrix weight;
  const float* selection_bias = nullptr;
  kernels::RouteParams params{};
};

// A dense MLP: the matrices of the layer's only expert once more, as linear layers. `out` of gate and up includes the
// padding, whose outputs are zeros. Without one gate.is_trellis is false.
struct DeviceMlp {
  DeviceLinear gate, up, down;
};

struct DeviceLayer {
  const float* attention_input_norm = nullptr;
  const float* mlp_input_norm = nullptr;
  DeviceMla mla;
  DeviceGqa gqa;
  DeviceRouter router;
  kernels::cuda::MoeLayer moe{};
  DeviceMlp dense;
};

struct DeviceWeights {
  kernels::DenseMatrix embedding;
  std::vector<DeviceLayer> layers;
  const float* final_norm = nullptr;
  DeviceLinear head;
};

}  // namespace fairway::model
