// Making a random expert layer, and its outputs in double precision.
#include "kernels/moe_swiglu/cuda/problem.cuh"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "backend/cuda/check.cuh"
#include "codec/half.h"
#include "codec/trellis.h"

namespace fairway::kernels::cuda::check {
namespace {

const std::vector<float>& codebook_values(int codebook) {
  static std::vector<float> tables[3];
  std::vector<float>& table = tables[codebook];
  if (table.empty()) {
    for (unsigned s = 0; s < 65536; ++s) {
      table.push_back(codec::float_from_half(codec::codebook_half_bits(static_cast<codec::Codebook>(codebook), s)));
    }
  }
  return table;
}

void decode(HostMatrix& m) {
  const std::vector<float>& values = codebook_values(m.codebook);
  const int columns = m.out / 16, tile_bytes = 32 * m.bits;
  m.inner.resize(static_cast<std::size_t>(m.in) * m.out);
  for (int i = 0; i < m.in / 16; ++i) {
    for (int j = 0; j < columns; ++j) {
      const unsigned char* tile = m.words.data() + static_cast<std::size_t>(i * columns + j) * tile_bytes;
      const auto word = [&](int w) {
        return tile[4 * w] | tile[4 * w + 1] << 8 | tile[4 * w + 2] << 16 |
               static_cast<unsigned>(tile[4 * w + 3]) << 24;
      };
      for (int p = 0; p < 256; ++p) {
        const unsigned state =
            codec::window_state(word(codec::window_previous_word(p, m.bits)), word(codec::window_last_word(p, m.bits)),
                                codec::window_shift(p, m.bits));
        const std::size_t row = static_cast<std::size_t>(16 * i + codec::tile_row(p));
        m.inner[row * m.out + 16 * j + codec::tile_column(p)] = values[state];
      }
    }
  }
}

// Every block of 128 times the Hadamard matrix.
void transform(std::vector<double>& x) {
  for (std::size_t begin = 0; begin < x.size(); begin += 128) {
    for (int distance = 1; distance < 128; distance *= 2) {
      for (int i = 0; i < 128; ++i) {
        if (i & distance) continue;
        const double a = x[begin + i], b = x[begin + i + distance];
        x[begin + i] = a + b;
        x[begin + i + distance] = a - b;
      }
    }
    for (int i = 0; i < 128; ++i) x[begin + i] /= std::sqrt(128.0);
  }
}

float rounded_to_half(float v) {
  return codec::float_from_half(codec::half_from_float(v));
}

std::vector<float> random_scales(Random& random, int n, float size) {
  std::vector<float> scales;
  for (int i = 0; i < n; ++i) {
    const float v = random.uniform(0.5f, 1.5f) * size;
    scales.push_back(rounded_to_half(random.below(2) ? v : -v));
  }
  return scales;
}

std::vector<__half> to_halves(const std::vector<float>& values) {
  std::vector<__half> halves;
  halves.reserve(values.size());
  for (const float v : values) halves.push_back(__half(__half_raw{codec::half_from_float(v)}));
  return halves;
}

}  // namespace

std::uint64_t Random::next() {
  std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
float Random::uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(next() >> 40) / static_cast<float>(1 << 24);
}
float Random::normal() {
  const float u = uniform(1e-7f, 1.0f), v = uniform(0.0f, 1.0f);
  return std::sqrt(-2.0f * std::log(u)) * std::cos(2.0f * std::numbers::pi_v<float> * v);
}

std::vector<double> HostMatrix::apply(const std::vector<double>& x) const {
  std::vector<double> scaled(x);
  for (int i = 0; i < in; ++i) scaled[i] *= suh[i];
  transform(scaled);
  std::vector<double> y(out, 0.0);
  for (int k = 0; k < in; ++k) {
    const double v = scaled[k];
    const float* row = inner.data() + static_cast<std::size_t>(k) * out;
    for (int n = 0; n < out; ++n) y[n] += v * row[n];
  }
  transform(y);
  for (int n = 0; n < out; ++n) y[n] *= svh[n];
  return y;
}

template <typename T>
T* Problem::upload(const std::vector<T>& values) {
  void* p = nullptr;
  backend::check_cuda(cudaMalloc(&p, values.size() * sizeof(T)), "cudaMalloc");
  backend::check_cuda(cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  allocations_.push_back(p);
  return static_cast<T*>(p);
}

HostMatrix Problem::random_matrix(Random& random, int in, int out, const std::vector<float>* suh) {
  HostMatrix m{};
  m.in = in;
  m.out = out;
  m.bits = shape_.bits > 0 ? shape_.bits : 1 + random.below(8);
  m.codebook = shape_.codebook >= 0 ? shape_.codebook : random.below(3);
  m.words.resize(static_cast<std::size_t>(in) * out * m.bits / 8);
  for (unsigned char& b : m.words) b = static_cast<unsigned char>(random.next() >> 32);
  m.suh = suh != nullptr ? *suh : random_scales(random, in, 1.0f);
  m.svh = random_scales(random, out, 1.0f / std::sqrt(static_cast<float>(in)));
  m.svh[out / 2] = 0.0f;
  decode(m);
  return m;
}

TrellisRef Problem::to_device(const HostMatrix& m, const __half* suh) {
  return {upload(m.words), suh != nullptr ? suh : upload(to_halves(m.suh)), upload(to_halves(m.svh)), m.bits,
          m.codebook};
}

Problem::Problem(const LayerShape& shape, int max_tokens) : shape_(shape) {
  Random random(shape.seed);
  const std::vector<float> common = random_scales(random, shape.hidden, 1.0f);
  const __half* common_device = shape.common_suh ? upload(to_halves(common)) : nullptr;
  const std::vector<float>* host_suh = shape.common_suh ? &common : nullptr;
  std::vector<ExpertRef> refs;
  layer_ = {nullptr, shape.routed, shape.shared, shape.top_k, shape.hidden, shape.max_intermediate,
            0,       true,         common_device};
  for (int e = 0; e < experts(); ++e) {
    // The first expert has the largest size, so that max_intermediate is reached.
    const int intermediate = e == 0 ? shape.max_intermediate : 128 * (1 + random.below(shape.max_intermediate / 128));
    host_.push_back({random_matrix(random, shape.hidden, intermediate, host_suh),
                     random_matrix(random, shape.hidden, intermediate, host_suh),
                     random_matrix(random, intermediate, shape.hidden, nullptr), intermediate});
    const HostExpert& h = host_.back();
    ExpertRef ref{};
    ref.gate = to_device(h.gate, common_device);
    ref.up = to_device(h.up, common_device);
    ref.down = to_device(h.down, nullptr);
    ref.intermediate = intermediate;
    refs.push_back(ref);
    for (const HostMatrix* m : {&h.gate, &h.up, &h.down}) {
      layer_.max_bits = std::max(layer_.max_bits, m->bits);
      layer_.all_mul1 &= m->codebook == static_cast<int>(codec::Codebook::kMul1);
    }
  }
  layer_.experts = upload(refs);
  for (int i = 0; i < max_tokens * shape.hidden; ++i) {
    x_.push_back(i / shape.hidden == 4 ? 0.0f : rounded_to_half(random.normal()));  // one token of zeros
  }
  x_device_ = upload(to_halves(x_));
}

Problem::~Problem() {
  for (void* p : allocations_) cudaFree(p);
}

const std::vector<double>& Problem::expert_output(int token, int expert) {
  std::vector<double>& y = outputs_[{token, expert}];
  if (!y.empty()) return y;
  const HostExpert& e = host_[expert];
  const auto begin = x_.begin() + static_cast<std::ptrdiff_t>(token) * shape_.hidden;
  const std::vector<double> x(begin, begin + shape_.hidden);
  std::vector<double> gate = e.gate.apply(x);
  const std::vector<double> up = e.up.apply(x);
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  y = e.down.apply(gate);
  return y;
}

}  // namespace fairway::kernels::cuda::check
