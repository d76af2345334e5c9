// Guarded storage and random content.
#include "kernels/verify/random_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "codec/half.h"

namespace fairway::verify {

using kernels::DenseType;

GuardedBytes::GuardedBytes(std::size_t size) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  mapped_ = (size + page - 1) / page * page + page;
  void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<std::uint8_t*>(p);
  if (mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) throw std::bad_alloc();
  data_ = base_ + mapped_ - page - size;
}

GuardedBytes::~GuardedBytes() {
  munmap(base_, mapped_);
}

RandomTrellis::RandomTrellis(std::mt19937& random, int in_exact, int out_exact, int bits, codec::Codebook codebook,
                             bool with_bias)
    : in_exact_(in_exact), out_exact_(out_exact) {
  matrix_.in = padded(in_exact);
  matrix_.out = padded(out_exact);
  matrix_.bits = bits;
  matrix_.codebook = codebook;
  const std::size_t tiles = static_cast<std::size_t>(matrix_.in / 16) * static_cast<std::size_t>(matrix_.out / 16);
  const std::size_t size = tiles * codec::tile_bytes(bits);
  // The tiles fill the mapping up to the guard page, minus a byte for half of the matrices, which misaligns them.
  const std::size_t slack = random() % 2;
  words_ = std::make_unique<GuardedBytes>(size + slack);
  for (std::size_t i = 0; i < size; ++i) words_->data()[i] = static_cast<std::uint8_t>(random());
  matrix_.words = words_->data();
  std::normal_distribution<float> normal;
  const auto vector = [&](int n, float scale) {
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& value : v) value = (random() % 2 ? scale : -scale) * std::exp(0.25f * normal(random));
    return v;
  };
  suh_ = vector(matrix_.in, 1.0f / std::sqrt(static_cast<float>(matrix_.in)));
  svh_ = vector(matrix_.out, 1.0f);
  if (with_bias) bias_ = vector(matrix_.out, 0.5f);
  matrix_.suh = suh_.data();
  matrix_.svh = svh_.data();
  matrix_.bias = with_bias ? bias_.data() : nullptr;
}

void RandomTrellis::round_scales() {
  for (std::vector<float>* scales : {&suh_, &svh_}) {
    for (float& value : *scales) value = codec::float_from_half(codec::half_from_float(value));
  }
}

RandomDense::RandomDense(std::mt19937& random, int in, int out, DenseType type, bool with_bias) {
  const std::size_t count = static_cast<std::size_t>(in) * static_cast<std::size_t>(out);
  const std::size_t width = type == DenseType::kF32 ? 4 : 2;
  bytes = std::make_unique<GuardedBytes>(count * width + 1);
  std::vector<float> v = random_normal(random, count);
  for (std::size_t i = 0; i < count; ++i) {
    float value = v[i] / std::sqrt(static_cast<float>(in));
    const std::uint16_t half = codec::half_from_float(value), bfloat = codec::bfloat_from_float(value);
    if (type == DenseType::kF16) value = codec::float_from_half(half);
    if (type == DenseType::kBf16) value = codec::float_from_bfloat(bfloat);
    const void* stored = &value;
    if (type == DenseType::kF16) stored = &half;
    if (type == DenseType::kBf16) stored = &bfloat;
    std::memcpy(bytes->data() + 1 + i * width, stored, width);
    values.push_back(value);
  }
  if (with_bias) bias = random_normal(random, static_cast<std::size_t>(out));
  weights = {in, out, kernels::DenseMatrix{bytes->data() + 1, type, in, out, with_bias ? bias.data() : nullptr}};
}

std::vector<float> random_normal(std::mt19937& random, std::size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> v(count);
  for (float& value : v) value = normal(random);
  return v;
}

std::vector<float> poison(std::size_t count) {
  return std::vector<float>(count, std::numeric_limits<float>::quiet_NaN());
}

bool still_poison(std::span<const float> values) {
  for (const float v : values) {
    if (!std::isnan(v)) return false;
  }
  return true;
}

}  // namespace fairway::verify
