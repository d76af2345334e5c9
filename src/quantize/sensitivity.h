// What each width of each matrix is predicted to cost, in bytes and in quality: the input of the allocation.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/model_layout.h"

namespace fairway::quantize {

constexpr int kMaxBits = 8;

struct LinearSensitivity {
  std::string prefix;  // module key
  formats::LinearRole role = formats::LinearRole::kExpert;
  int layer = -1, expert = -1;  // -1: outside of the layers, not a routed expert
  std::int64_t weights = 0;     // padded in * padded out: a width of K bits costs weights * K / 8 bytes of codes
  std::int64_t side_bytes = 0;  // scale vectors, bias and flag, whatever the width
  // loss[K]: predicted increase of the model's KL divergence against its source, nats per token, if only this matrix is
  // coded at K = 1 .. 8 bits; strictly positive, descending in K. loss[0] is not used. Losses of different matrices
  // add.
  std::array<double, kMaxBits + 1> loss{};
};

struct ModelSensitivity {
  std::string model;                       // name of the source
  std::int64_t fixed_bytes = 0;            // tensors that are stored as they are, embedding and norms
  std::vector<LinearSensitivity> linears;  // every matrix that is to be coded, in file order; the head too
};

}  // namespace fairway::quantize
