// The conversions of CUDA's fp8 header that the cache uses, for E4M3 with saturation to the largest finite value.
#pragma once

#include "codec/float8.h"
#include "cuda_fp16.h"
