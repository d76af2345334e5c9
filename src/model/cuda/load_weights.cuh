// A model in host memory to one in device memory.
#pragma once

#include "model/cuda/device_weights.cuh"
#include "model/cuda/weight_store.h"
#include "model/host_model.h"

namespace fairway::model {

// Puts every tensor into the store; with a measuring store the pointers are null and only its bytes() are of use.
// Error(kUnsupported) names the matrix that no CUDA kernel runs.
DeviceWeights load_weights(const HostModel& model, WeightStore& store);

}  // namespace fairway::model
