// Random tensor content, streamed into shards so that no tensor is ever held whole.
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "cli/output.h"
#include "cli/signals.h"
#include "cli/synth.h"
#include "codec/half.h"
#include "formats/shard_writer.h"

namespace fairway::cli {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

// xoshiro256** seeded with splitmix64 (Blackman and Vigna, public domain algorithms); seed and tensor number give the
// content, so that a tensor does not depend on the others.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t tensor) {
    std::uint64_t x = seed * 0x9E3779B97F4A7C15u + tensor;
    for (std::uint64_t& word : state_) {
      x += 0x9E3779B97F4A7C15u;
      std::uint64_t z = x;
      z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
      z = (z ^ z >> 27) * 0x94D049BB133111EBu;
      word = z ^ z >> 31;
    }
  }
  std::uint64_t next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

 private:
  std::uint64_t state_[4];
};

std::uint16_t float_bits(formats::TensorType type, float value) {
  return type == formats::TensorType::kBf16 ? codec::bfloat_from_float(value) : codec::half_from_float(value);
}

// Fills `words` with entries first, first + 1, ... of a tensor of 16-bit values.
void fill_words(const SynthTensor& tensor, std::int64_t first, Random& random, std::vector<std::uint16_t>& words) {
  constexpr float kSqrt3 = 1.7320508f;  // a uniform value in [-a, a] has standard deviation a / sqrt(3)
  const std::uint16_t positive = float_bits(tensor.spec.type, tensor.value);
  const std::uint16_t one = float_bits(tensor.spec.type, 1.0f);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < words.size(); ++i, bits >>= 16) {
    if (i % 4 == 0) bits = random.next();
    const std::uint16_t word = static_cast<std::uint16_t>(bits);
    switch (tensor.fill) {
      case Fill::kWords:
        words[i] = word;
        break;
      case Fill::kSigns: {
        const bool live = tensor.live < 0 || first + static_cast<std::int64_t>(i) < tensor.live;
        words[i] = live ? static_cast<std::uint16_t>(positive | (word & 0x8000u)) : std::uint16_t{0};
        break;
      }
      case Fill::kOnes:
        words[i] = one;
        break;
      case Fill::kUniform: {
        const float uniform = (static_cast<float>(word) - 32767.5f) / 32768.0f;
        words[i] = float_bits(tensor.spec.type, kSqrt3 * tensor.value * uniform);
        break;
      }
      case Fill::kZeros:
      case Fill::kFlag:
        words[i] = 0;
        break;
    }
  }
}

void write_tensor(const SynthTensor& tensor, Random random, formats::ShardWriter& writer) {
  if (tensor.fill == Fill::kFlag) {
    std::uint8_t bytes[4];
    std::memcpy(bytes, &tensor.flag, sizeof bytes);
    writer.write(bytes);
    return;
  }
  std::vector<std::uint16_t> words;
  const std::int64_t total = tensor.bytes() / 2;
  for (std::int64_t first = 0; first < total; first += static_cast<std::int64_t>(words.size())) {
    throw_if_cancelled("writing the checkpoint");
    words.resize(static_cast<std::size_t>(std::min<std::int64_t>(kChunkBytes / 2, total - first)));
    fill_words(tensor, first, random, words);
    writer.write({reinterpret_cast<const std::uint8_t*>(words.data()), words.size() * 2});
  }
}

}  // namespace

void write_tensors(const std::vector<SynthTensor>& tensors, std::uint64_t seed, const std::filesystem::path& out) {
  Progress progress("synth");
  formats::ShardWriter writer(out, specs_of(tensors));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    write_tensor(tensors[i], Random(seed, i), writer);
    progress.update(writer.share(), writer.current_file());
  }
  writer.finish();
}

}  // namespace fairway::cli
