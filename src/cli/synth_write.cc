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

namespace fairway::cli {
namespace {

constexpr std::int64_t kShardBytes = 4'000'000'000;
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

void write_tensor(const SynthTensor& tensor, Random random, formats::SafetensorsWriter& writer) {
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

// [begin, end) of each shard.
std::vector<std::pair<std::size_t, std::size_t>> plan_shards(const std::vector<SynthTensor>& tensors) {
  std::vector<std::pair<std::size_t, std::size_t>> shards{{0, 0}};
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (bytes > 0 && bytes + tensors[i].bytes() > kShardBytes) {
      shards.emplace_back(i, i);
      bytes = 0;
    }
    bytes += tensors[i].bytes();
    shards.back().second = i + 1;
  }
  return shards;
}

std::string shard_name(std::size_t index, std::size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

// Files of a run that did not finish are removed again.
class Created {
 public:
  ~Created() {
    std::error_code ignored;  // an unwinding destructor has nobody to tell
    for (const auto& path : paths_) std::filesystem::remove(path, ignored);
  }
  void add(std::filesystem::path path) { paths_.push_back(std::move(path)); }
  void keep() { paths_.clear(); }

 private:
  std::vector<std::filesystem::path> paths_;
};

}  // namespace

void write_tensors(const std::vector<SynthTensor>& tensors, std::uint64_t seed, const std::filesystem::path& out) {
  const auto shards = plan_shards(tensors);
  std::int64_t total = 0, done = 0;
  for (const SynthTensor& tensor : tensors) total += tensor.bytes();
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  auto& entries = files.get_ref<nlohmann::ordered_json::object_t&>();
  entries.reserve(tensors.size());  // appended without the search for an equal key: names are unique by construction
  Progress progress("synth");
  Created created;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const std::string name = shard_name(s, shards.size());
    std::vector<formats::TensorSpec> specs;
    for (std::size_t i = shards[s].first; i < shards[s].second; ++i) {
      specs.push_back(tensors[i].spec);
      entries.push_back({tensors[i].spec.name, name});
    }
    created.add(out / name);
    formats::SafetensorsWriter writer(out / name, std::move(specs));
    for (std::size_t i = shards[s].first; i < shards[s].second; ++i) {
      write_tensor(tensors[i], Random(seed, i), writer);
      done += tensors[i].bytes();
      progress.update(static_cast<double>(done) / static_cast<double>(total), name);
    }
    writer.finish();
  }
  if (shards.size() > 1) {
    write_text_file(out / "model.safetensors.index.json",
                    json_text({{"metadata", {{"total_size", total}}}, {"weight_map", std::move(files)}}), "--out");
  }
  created.keep();
}

}  // namespace fairway::cli
