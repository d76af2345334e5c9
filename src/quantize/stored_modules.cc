// Rules of the format for single modules.
#include "quantize/stored_modules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "codec/half.h"
#include "codec/packing.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"

namespace fairway::quantize {
namespace {

using codec::Codebook;
using formats::TensorType;
using formats::TensorView;

constexpr const char* kSides[][2] = {{"suh", "su"}, {"svh", "sv"}};  // scales and their legacy form

// Checks one trellis-coded module; every complaint names file and tensor.
class ModuleCheck {
 public:
  ModuleCheck(const formats::Checkpoint& checkpoint, const std::string& prefix, StoredModule& module,
              std::vector<std::string>& problems)
      : checkpoint_(checkpoint), prefix_(prefix), module_(module), problems_(problems) {}

  void run() {
    if (!check_parts()) return;
    check_trellis();
    if (!module_.sound) return;  // sizes of the others follow from the trellis
    check_side(0, in_);
    check_side(1, out_);
    for (const Codebook codebook : {Codebook::kMcg, Codebook::kMul1}) check_flag(codebook);
    check_bias();
  }

 private:
  void fail(const TensorView& tensor, const std::string& what) {
    module_.sound = false;
    problems_.push_back(fmt::format("{}: tensor \"{}\" {}", checkpoint_.file_of(tensor).string(),
                                    formats::printable(tensor.name), what));
  }

  std::string shape(const TensorView& tensor) { return fmt::format("[{}]", fmt::join(tensor.shape, ", ")); }

  void expect(const TensorView& tensor, TensorType type, const std::vector<std::int64_t>& dims) {
    if (tensor.type == type && tensor.shape == dims) return;
    fail(tensor, fmt::format("is {} of shape {}, expected {} of shape [{}]", tensor_type_name(tensor.type),
                             shape(tensor), tensor_type_name(type), fmt::join(dims, ", ")));
  }

  bool check_parts() {
    std::string missing;
    if (!module_.is_trellis()) missing = "trellis";
    for (const auto& side : kSides) {
      if (module_.find(side[0]) == nullptr && module_.find(side[1]) == nullptr) {
        missing += fmt::format("{}{}", missing.empty() ? "" : ", ", side[0]);
      }
    }
    const TensorView& first = *module_.parts.begin()->second;
    if (!missing.empty()) {
      fail(first, fmt::format("belongs to the linear \"{}\", which has no {}", prefix_, missing));
    }
    if (const TensorView* weight = module_.find("weight")) {
      fail(*weight, "stands beside a trellis, expected one form of the linear");
    }
    const TensorView *mcg = module_.find("mcg"), *mul1 = module_.find("mul1");
    if (mcg != nullptr && mul1 != nullptr) fail(*mul1, "stands beside mcg, expected at most one codebook flag");
    return missing.empty();
  }

  void check_trellis() {
    const TensorView& trellis = *module_.find("trellis");
    if (trellis.type != TensorType::kI16)
      fail(trellis, fmt::format("is {}, expected I16", tensor_type_name(trellis.type)));
    const auto& dims = trellis.shape;
    constexpr std::int64_t kTiles = codec::kHadamardDim / codec::kTileDim;
    const bool sizes = dims.size() == 3 && dims[0] > 0 && dims[1] > 0 && dims[0] % kTiles == 0 && dims[1] % kTiles == 0;
    const bool width = dims.size() == 3 && dims[2] % codec::kWordsPerTilePerBit == 0 &&
                       dims[2] / codec::kWordsPerTilePerBit >= 1 && dims[2] / codec::kWordsPerTilePerBit <= 8;
    if (!sizes || !width) {
      fail(trellis,
           fmt::format("has shape {}, expected [in/16, out/16, 16 * bits] with in and out multiples of 128 and "
                       "1 to 8 bits",
                       shape(trellis)));
      return;
    }
    in_ = dims[0] * codec::kTileDim;
    out_ = dims[1] * codec::kTileDim;
  }

  void check_side(std::size_t side, std::int64_t length) {
    const TensorView* scale = module_.find(kSides[side][0]);
    if (scale == nullptr) {
      expect(*module_.find(kSides[side][1]), TensorType::kI16, {length / 16});
      return;
    }
    expect(*scale, TensorType::kF16, {length});
    if (module_.sound) check_finite(*scale);
  }

  void check_finite(const TensorView& tensor) {
    for (std::size_t i = 0; i < tensor.bytes.size() / 2; ++i) {
      std::uint16_t half;
      std::memcpy(&half, tensor.bytes.data() + 2 * i, sizeof half);
      const float value = codec::float_from_half(half);
      if (std::isfinite(value)) continue;
      fail(tensor, fmt::format("is {} at index {}, expected finite values", value, i));
      return;
    }
  }

  void check_flag(Codebook codebook) {
    const TensorView* flag = module_.find(formats::codebook_flag(codebook));
    if (flag == nullptr) return;
    if (flag->type != TensorType::kI32 || flag->bytes.size() != sizeof(std::int32_t) || !flag->shape.empty()) {
      expect(*flag, TensorType::kI32, {});
      return;
    }
    std::int32_t value;
    std::memcpy(&value, flag->bytes.data(), sizeof value);
    const auto expected = std::bit_cast<std::int32_t>(formats::codebook_multiplier(codebook));
    if (value != expected) fail(*flag, fmt::format("is {}, expected the codebook's multiplier {}", value, expected));
  }

  void check_bias() {
    const TensorView* bias = module_.find("bias");
    if (bias == nullptr) return;
    const bool exact = bias->shape.size() == 1 && bias->shape[0] <= out_ && bias->shape[0] > out_ - codec::kHadamardDim;
    if (bias->type != TensorType::kF16 || !exact) {
      fail(*bias, fmt::format("is {} of shape {}, expected F16 of shape [{}] or the exact number of outputs",
                              tensor_type_name(bias->type), shape(*bias), out_));
    } else {
      check_finite(*bias);
    }
  }

  const formats::Checkpoint& checkpoint_;
  const std::string& prefix_;
  StoredModule& module_;
  std::vector<std::string>& problems_;
  std::int64_t in_ = 0, out_ = 0;
};

bool has_trellis_part(const StoredModule& module) {
  for (const char* part : {"trellis", "suh", "svh", "su", "sv", "mcg", "mul1"}) {
    if (module.find(part) != nullptr) return true;
  }
  return false;
}

}  // namespace

const TensorView* StoredModule::find(const std::string& part) const {
  const auto at = parts.find(part);
  return at == parts.end() ? nullptr : at->second;
}

int StoredModule::bits() const {
  return static_cast<int>(find("trellis")->shape.back() / codec::kWordsPerTilePerBit);
}

Codebook StoredModule::codebook() const {
  for (const Codebook codebook : {Codebook::kMcg, Codebook::kMul1}) {
    if (find(formats::codebook_flag(codebook)) != nullptr) return codebook;
  }
  return Codebook::k3inst;
}

StoredModules stored_modules(const formats::Checkpoint& checkpoint) {
  StoredModules modules;
  for (const TensorView* tensor : checkpoint.tensors()) {
    const std::string module = formats::module_of(tensor->name);
    modules[module].parts[module.empty() ? tensor->name : tensor->name.substr(module.size() + 1)] = tensor;
  }
  return modules;
}

void check_modules(const formats::Checkpoint& checkpoint, StoredModules& modules, std::vector<std::string>& problems,
                   std::vector<std::string>& notes) {
  std::map<Codebook, std::string> codebooks;  // and the first module that has it
  std::size_t legacy = 0;
  for (auto& [prefix, module] : modules) {
    if (!has_trellis_part(module)) continue;
    ModuleCheck(checkpoint, prefix, module, problems).run();
    if (!module.is_trellis()) continue;
    codebooks.try_emplace(module.codebook(), prefix);
    legacy += module.find("suh") == nullptr || module.find("svh") == nullptr;
  }
  if (codebooks.empty()) {
    problems.push_back(
        fmt::format("{}: no linear is trellis-coded, expected an EXL3 model", checkpoint.directory().string()));
  }
  if (codebooks.size() > 1) {
    const auto& [first, a] = *codebooks.begin();
    const auto& [last, b] = *codebooks.rbegin();
    problems.push_back(fmt::format("{}: \"{}\" has the codebook {} and \"{}\" has {}, expected one codebook",
                                   checkpoint.directory().string(), a, codec::codebook_name(first), b,
                                   codec::codebook_name(last)));
  }
  if (legacy > 0) notes.push_back(fmt::format("{} linears have sign words (su, sv) in place of scales", legacy));
}

}  // namespace fairway::quantize
