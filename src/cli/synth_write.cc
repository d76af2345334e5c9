// Random tensor content, streamed into shards so that no tensor is ever held whole.
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "cli/output.h"
#include "cli/signals.h"
#include "cli/synth.h"
#include "codec/half.h"
#include "formats/shard_writer.h"
#include "kernels/common/random_values.h"
#include "model/device_random.h"

namespace fairway::cli {
namespace {

using model::RandomPart;

constexpr std::int64_t kPartBytes = std::int64_t{4} << 20;         // of a tensor that are made at once
constexpr std::int64_t kLeastDeviceBytes = std::int64_t{1} << 16;  // smaller parts are made on the host

std::uint16_t float_bits(formats::TensorType type, float value) {
  return type == formats::TensorType::kBf16 ? codec::bfloat_from_float(value) : codec::half_from_float(value);
}

// Consecutive entries of a tensor of 16-bit values.
struct Part {
  const SynthTensor* tensor;
  std::uint64_t seed;         // of the tensor
  std::int64_t first, count;  // entries; of words both are even
  std::int64_t bytes() const { return 2 * count; }
};

// Fills `words` with the part's entries. They depend on the seed, the tensor's number and their place only.
void fill_words(const Part& part, std::vector<std::uint16_t>& words) {
  const SynthTensor& tensor = *part.tensor;
  words.resize(static_cast<std::size_t>(part.count));
  const auto place = [&](std::size_t i) { return static_cast<std::uint64_t>(part.first) + i; };
  switch (tensor.fill) {
    case Fill::kWords:
      for (std::size_t i = 0; i < words.size(); i += 2) {
        const std::uint32_t word = kernels::random_word(part.seed, place(i) / 2);
        words[i] = static_cast<std::uint16_t>(word);
        if (i + 1 < words.size()) words[i + 1] = static_cast<std::uint16_t>(word >> 16);
      }
      break;
    case Fill::kSigns: {
      const std::uint16_t positive = float_bits(tensor.spec.type, tensor.value);
      for (std::size_t i = 0; i < words.size(); ++i) {
        const bool live = tensor.live < 0 || place(i) < static_cast<std::uint64_t>(tensor.live);
        const std::uint32_t sign = kernels::random_word(part.seed, place(i)) >> 31 << 15;
        words[i] = live ? static_cast<std::uint16_t>(positive | sign) : std::uint16_t{0};
      }
      break;
    }
    case Fill::kOnes:
      std::fill(words.begin(), words.end(), float_bits(tensor.spec.type, 1.0f));
      break;
    case Fill::kUniform:
      for (std::size_t i = 0; i < words.size(); ++i) {
        words[i] = float_bits(tensor.spec.type, kernels::random_value(part.seed, place(i), tensor.value));
      }
      break;
    case Fill::kZeros:
      std::fill(words.begin(), words.end(), std::uint16_t{0});
      break;
    case Fill::kFlag:
      words[0] = static_cast<std::uint16_t>(tensor.flag);
      words[1] = static_cast<std::uint16_t>(tensor.flag >> 16);
      break;
  }
}

// The parts of all tensors in file order.
std::vector<Part> parts_of(const std::vector<SynthTensor>& tensors, std::uint64_t seed) {
  std::vector<Part> parts;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const std::int64_t entries = tensors[t].bytes() / 2;
    for (std::int64_t first = 0; first < entries; first += kPartBytes / 2) {
      parts.push_back({&tensors[t], kernels::random_hash(seed, t), first, std::min(kPartBytes / 2, entries - first)});
    }
  }
  return parts;
}

// What a device makes of the part: the same entries. Nothing if the host is to do it.
std::optional<RandomPart> device_part(const Part& part) {
  const SynthTensor& tensor = *part.tensor;
  const auto first = static_cast<std::uint64_t>(part.first);
  const auto count = static_cast<std::size_t>(part.count);
  if (part.bytes() < kLeastDeviceBytes) return std::nullopt;
  if (tensor.fill == Fill::kWords && count % 2 == 0) {
    return RandomPart{RandomPart::Kind::kWords, 0, part.seed, first / 2, count / 2};
  }
  if (tensor.fill != Fill::kUniform) return std::nullopt;
  const bool bfloat = tensor.spec.type == formats::TensorType::kBf16;
  return RandomPart{bfloat ? RandomPart::Kind::kBfloats : RandomPart::Kind::kHalves, tensor.value, part.seed, first,
                    count};
}

// Gives the bytes of each part in turn. A device makes the next ones meanwhile.
class PartMaker {
 public:
  PartMaker(const std::vector<Part>& parts, std::optional<int> device) : parts_(parts) {
    if (device) device_.emplace(*device);
  }

  // Of the next part; they stay where they are until the next call.
  std::span<const std::uint8_t> next() {
    const Part& part = parts_[next_++];
    while (device_ && !device_->full() && asked_ < parts_.size()) {
      if (const auto wanted = device_part(parts_[asked_++])) device_->ask(*wanted);
    }
    if (device_ && device_part(part)) return device_->take();
    fill_words(part, words_);
    return {reinterpret_cast<const std::uint8_t*>(words_.data()), 2 * words_.size()};
  }

 private:
  const std::vector<Part>& parts_;
  std::optional<model::DeviceRandom> device_;
  std::vector<std::uint16_t> words_;
  std::size_t next_ = 0, asked_ = 0;  // parts
};

}  // namespace

void write_tensors(const std::vector<SynthTensor>& tensors, std::uint64_t seed, const std::filesystem::path& out,
                   std::optional<int> device) {
  Progress progress("synth");
  formats::ShardWriter writer(out, specs_of(tensors));
  const std::vector<Part> parts = parts_of(tensors, seed);
  PartMaker maker(parts, device);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    throw_if_cancelled("writing the checkpoint");
    writer.write(maker.next());
    progress.update(writer.share(), writer.current_file());
  }
  writer.finish();
}

}  // namespace fairway::cli
