// A model in host memory to one in device memory.
#pragma once

#include "model/cuda/device_weights.cuh"
#include "model/cuda/weight_store.h"
#include "model/host_model.h"

namespace fairway::model {

// Puts every tensor into the store; with a measuring store the pointers are null and only its bytes() are of use.
// Error(kUnsupported) names the matrix that no CUDA kernel runs. kv_b: what kv_b_proj becomes. As halves, weights that
// a checkpoint has as bf16 or fp32 are exact (bf16) or rounded (fp32), to multiples of 2^-24 below 2^-14; one beyond
// the largest half is an error.
DeviceWeights load_weights(const HostModel& model, kernels::cuda::UpWeight kv_b, WeightStore& store);

}  // namespace fairway::model
