// One linear layer out of a checkpoint: EXL3 tensors or a plain weight, every shape and value checked.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cstring>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_state.h"
#include "formats/source_tensor.h"
#include "formats/tensor_values.h"

namespace fairway::formats {

using kernels::DenseMatrix;
using kernels::DenseType;
using kernels::LinearWeights;
using kernels::TrellisMatrix;

namespace {

constexpr std::int64_t kMaxPaddedOut = 1 << 26;  // four times the largest vocabulary that a config may name

std::string shape_text(const TensorView& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.shape, ", "));
}

}  // namespace

// Reads one module; kept as a class because every step needs the checkpoint and the module's key for its messages.
class LinearReader {
 public:
  LinearReader(const Checkpoint& checkpoint, const std::string& prefix, int in, int out, bool allow_padded_out,
               WidenedMatrices* widened)
      : checkpoint_(checkpoint),
        prefix_(prefix),
        in_(in),
        out_(out),
        allow_padded_out_(allow_padded_out),
        widened_(widened) {}

  LinearWeights read() const {
    LinearWeights linear{.in = in_, .out = out_, .matrix = {}};
    if (checkpoint_.has_trellis(prefix_)) {
      linear.matrix = read_trellis();
    } else if (const TensorView* weight = find("weight")) {
      linear.matrix = read_dense(*weight);
    } else {
      fail_missing_linear(checkpoint_, prefix_);
    }
    return linear;
  }

 private:
  const TensorView* find(const char* part) const { return checkpoint_.find(prefix_ + "." + part); }

  [[noreturn]] void fail(const TensorView& tensor, const std::string& what) const {
    throw Error(ErrorKind::kBadInput, fmt::format("{} {}", tensor_subject(checkpoint_, tensor), what));
  }

  // Stores a converted vector once, and equal ones only once; a second reader of the same module gets the same storage.
  template <typename Make>
  const float* own(const std::string& key, const Make& make) const {
    Checkpoint::State& state = *checkpoint_.state_;
    const std::lock_guard<std::mutex> lock(state.owned_mutex);
    auto at = state.owned.find(key);
    if (at == state.owned.end()) {
      at = state.owned.emplace(key, state.owned_values.insert(make()).first->data()).first;
    }
    return at->second;
  }

  TrellisMatrix read_trellis() const {
    const TensorView& trellis = *find("trellis");
    if (trellis.type != TensorType::kI16 && trellis.type != TensorType::kU16) {
      fail(trellis, fmt::format("is {}, expected I16", describe(trellis)));
    }
    if (trellis.shape.size() != 3) {
      fail(trellis, fmt::format("has shape {}, expected [in/16, out/16, 16 * bits]", shape_text(trellis)));
    }
    const std::int64_t words = trellis.shape[2];
    const std::int64_t bits = words / codec::kWordsPerTilePerBit;
    if (words % codec::kWordsPerTilePerBit != 0 || bits < 1 || bits > 8) {
      fail(trellis,
           fmt::format("has shape {}: its last dimension must be 16 * bits for 1 to 8 bits", shape_text(trellis)));
    }
    const std::int64_t in = codec::padded<std::int64_t>(in_);
    const std::int64_t least_out = codec::padded<std::int64_t>(out_);
    const std::int64_t out_tiles = trellis.shape[1];
    const bool out_matches = out_tiles == least_out / codec::kTileDim ||
                             (allow_padded_out_ && out_tiles > least_out / codec::kTileDim &&
                              out_tiles <= kMaxPaddedOut / codec::kTileDim && out_tiles % 8 == 0);
    if (trellis.shape[0] != in / codec::kTileDim || !out_matches) {
      fail(trellis, fmt::format("has shape {}, expected [{}, {}{}, 16 * bits] for {} inputs and {} outputs",
                                shape_text(trellis), in / codec::kTileDim, least_out / codec::kTileDim,
                                allow_padded_out_ ? " or more in steps of 8" : "", in_, out_));
    }
    TrellisMatrix matrix;
    matrix.words = trellis.bytes.data();
    matrix.in = static_cast<int>(in);
    matrix.out = static_cast<int>(out_tiles * codec::kTileDim);
    matrix.bits = static_cast<int>(bits);
    matrix.codebook = read_codebook();
    matrix.suh = read_scale("suh", "su", matrix.in);
    matrix.svh = read_scale("svh", "sv", matrix.out);
    matrix.bias = read_bias(matrix.out);
    return matrix;
  }

  codec::Codebook read_codebook() const {
    const TensorView* mcg = find("mcg");
    const TensorView* mul1 = find("mul1");
    if (mcg != nullptr && mul1 != nullptr) fail(*mul1, "stands beside mcg, expected at most one codebook flag");
    if (mcg != nullptr) {
      check_flag(*mcg, codec::kMcgMultiplier);
      return codec::Codebook::kMcg;
    }
    if (mul1 != nullptr) {
      check_flag(*mul1, codec::kMul1Multiplier);
      return codec::Codebook::kMul1;
    }
    return codec::Codebook::k3inst;
  }

  void check_flag(const TensorView& flag, std::uint32_t multiplier) const {
    const bool scalar = flag.shape.empty() || (flag.shape.size() == 1 && flag.shape[0] == 1);
    if (flag.type != TensorType::kI32 || !scalar)
      fail(flag, fmt::format("is {}, expected I32 of shape []", describe(flag)));
    std::int32_t value;
    std::memcpy(&value, flag.bytes.data(), sizeof(value));
    const auto expected = std::bit_cast<std::int32_t>(multiplier);
    if (value != expected) fail(flag, fmt::format("is {}, expected the codebook's multiplier {}", value, expected));
  }

  // suh or svh as floats, or the legacy sign words su or sv expanded to +-1.
  const float* read_scale(const char* part, const char* legacy_part, int length) const {
    if (const TensorView* scale = find(part)) {
      check_length(*scale, length);
      if (scale->type == TensorType::kF64)
        fail(*scale, fmt::format("is {}, expected F16, BF16 or F32", describe(*scale)));
      return own(scale->name, [&] { return finite_floats(checkpoint_, *scale); });
    }
    const TensorView& signs = *find(legacy_part);
    if (signs.type != TensorType::kI16 && signs.type != TensorType::kU16) {
      fail(signs, fmt::format("is {}, expected I16 sign words", describe(signs)));
    }
    check_length(signs, length / 16);
    return own(signs.name, [&] { return expand_signs(signs, length); });
  }

  // Element 16 i + j is bit j of word i, least significant first; a set bit means -1.
  static std::vector<float> expand_signs(const TensorView& signs, int length) {
    std::vector<float> values(static_cast<std::size_t>(length));
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint16_t word;
      std::memcpy(&word, signs.bytes.data() + 2 * (i / 16), sizeof(word));
      values[i] = (word >> (i % 16) & 1) != 0 ? -1.0f : 1.0f;
    }
    return values;
  }

  void check_length(const TensorView& tensor, int length) const {
    if (tensor.shape.size() != 1 || tensor.shape[0] != length) {
      fail(tensor, fmt::format("has shape {}, expected [{}]", shape_text(tensor), length));
    }
  }

  // A bias of the exact or of the stored number of outputs, brought to `length`; null if there is none.
  const float* read_bias(int length) const {
    const TensorView* bias = find("bias");
    if (bias == nullptr) return nullptr;
    const bool fits = bias->shape.size() == 1 && (bias->shape[0] == out_ || bias->shape[0] == length);
    if (!fits) fail(*bias, fmt::format("has shape {}, expected [{}]", shape_text(*bias), out_));
    if (bias->type == TensorType::kF64) fail(*bias, fmt::format("is {}, expected F16, BF16 or F32", describe(*bias)));
    return own(fmt::format("{} {}", bias->name, length), [&] {
      std::vector<float> values = finite_floats(checkpoint_, *bias);
      values.resize(static_cast<std::size_t>(length), 0.0f);
      return values;
    });
  }

  DenseMatrix read_dense(const TensorView& weight) const {
    const bool fits = weight.shape.size() == 2 && weight.shape[1] == in_ &&
                      (weight.shape[0] == out_ || (allow_padded_out_ && weight.shape[0] > out_));
    DenseMatrix matrix{.data = weight.bytes.data(), .type = type_of(weight), .in = in_, .out = out_, .bias = nullptr};
    if (!fits) {
      fail(weight, fmt::format("has shape {}, expected [{}{}, {}]", shape_text(weight), out_,
                               allow_padded_out_ ? " or more" : "", in_));
    }
    if (is_fp8(weight.type)) matrix.data = widen(weight);
    const TensorView* bias = find("bias");
    const int bias_length = bias != nullptr && bias->shape.size() == 1 && bias->shape[0] == weight.shape[0]
                                ? static_cast<int>(std::min(weight.shape[0], kMaxPaddedOut))
                                : out_;
    matrix.bias = read_bias(bias_length);
    return matrix;
  }

  // As the matrix will be read: an fp8 one as floats, if that is wanted.
  DenseType type_of(const TensorView& weight) const {
    if (weight.type == TensorType::kF32) return DenseType::kF32;
    if (weight.type == TensorType::kF16) return DenseType::kF16;
    if (weight.type == TensorType::kBf16) return DenseType::kBf16;
    if (!is_fp8(weight.type)) fail(weight, fmt::format("is {}, expected F32, F16 or BF16", describe(weight)));
    if (widened_ == nullptr) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("{} is {}, and there are no kernels for fp8 weights; `fairway quantize` makes a model of "
                              "them that runs",
                              tensor_subject(checkpoint_, weight), describe(weight)));
    }
    return DenseType::kF32;
  }

  const std::uint8_t* widen(const TensorView& weight) const {
    const SourceTensor source(checkpoint_, weight.name, widened_->block);
    if (widened_->check_only) return nullptr;
    auto& values = widened_->values.emplace_back(static_cast<std::size_t>(in_) * static_cast<std::size_t>(out_));
    source.read(0, values);
    return reinterpret_cast<const std::uint8_t*>(values.data());
  }

  const Checkpoint& checkpoint_;
  const std::string& prefix_;
  int in_, out_;
  bool allow_padded_out_;
  WidenedMatrices* widened_;
};

bool Checkpoint::has_trellis(const std::string& prefix) const {
  const auto has = [&](const char* part) { return find(prefix + "." + part) != nullptr; };
  return has("trellis") && (has("suh") || has("su")) && (has("svh") || has("sv"));
}

bool Checkpoint::has_linear(const std::string& prefix) const {
  return has_trellis(prefix) || find(prefix + ".weight") != nullptr;
}

LinearWeights Checkpoint::linear(const std::string& prefix, int in, int out, bool allow_padded_out,
                                 WidenedMatrices* widened) const {
  return LinearReader(*this, prefix, in, out, allow_padded_out, widened).read();
}

}  // namespace fairway::formats
