// Making random coded matrices, and their products in double precision.
#include "kernels/trellis_band/cuda/host_matrix.cuh"

#include <cmath>
#include <numbers>

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

HostMatrix random_matrix(Random& random, int in, int out, int bits, int codebook, const std::vector<float>* suh) {
  HostMatrix m{};
  m.in = in;
  m.out = out;
  m.bits = bits > 0 ? bits : 1 + random.below(8);
  m.codebook = codebook >= 0 ? codebook : random.below(3);
  m.words.resize(static_cast<std::size_t>(in) * out * m.bits / 8);
  for (unsigned char& b : m.words) b = static_cast<unsigned char>(random.next() >> 32);
  m.suh = suh != nullptr ? *suh : random_scales(random, in, 1.0f);
  m.svh = random_scales(random, out, 1.0f / std::sqrt(static_cast<float>(in)));
  m.svh[out / 2] = 0.0f;
  decode(m);
  return m;
}

DeviceData::~DeviceData() {
  for (void* p : allocations_) cudaFree(p);
}

TrellisRef DeviceData::matrix(const HostMatrix& m, const __half* suh) {
  return {upload(m.words), suh != nullptr ? suh : upload(to_halves(m.suh)), upload(to_halves(m.svh)), m.bits,
          m.codebook};
}

}  // namespace fairway::kernels::cuda::check
