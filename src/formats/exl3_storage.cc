// Names, types and index entries of stored EXL3 tensors.
#include "formats/exl3_storage.h"

#include <iterator>
#include <unordered_map>

namespace fairway::formats {
namespace {

using nlohmann::ordered_json;

// What one tensor says about the module it belongs to.
void describe(const TensorSpec& tensor, const std::string& kind, ordered_json& module) {
  module["stored_tensors"][tensor.name] = {
      {"shape", tensor.shape}, {"n_bytes", tensor_bytes(tensor)}, {"dtype", torch_type_name(tensor.type)}};
  if (kind == "trellis") {
    module["quant_format"] = "exl3";
    module["bits_per_weight"] = tensor.shape.back() / codec::kWordsPerTilePerBit;
  }
  for (const codec::Codebook codebook : {codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    if (kind == codebook_flag(codebook)) module[kind + "_multiplier"] = codebook_multiplier(codebook);
  }
}

}  // namespace

std::vector<TensorSpec> exl3_tensors(const std::string& prefix, std::int64_t in, std::int64_t out, int bits,
                                     codec::Codebook codebook) {
  std::vector<TensorSpec> tensors = {{prefix + ".trellis",
                                      TensorType::kI16,
                                      {in / codec::kTileDim, out / codec::kTileDim, codec::kWordsPerTilePerBit * bits}},
                                     {prefix + ".suh", TensorType::kF16, {in}},
                                     {prefix + ".svh", TensorType::kF16, {out}}};
  if (const char* flag = codebook_flag(codebook)) tensors.push_back({prefix + "." + flag, TensorType::kI32, {}});
  return tensors;
}

const char* codebook_flag(codec::Codebook codebook) {
  if (codebook == codec::Codebook::k3inst) return nullptr;
  return codebook == codec::Codebook::kMcg ? "mcg" : "mul1";
}

std::uint32_t codebook_multiplier(codec::Codebook codebook) {
  if (codebook == codec::Codebook::k3inst) return 0;
  return codebook == codec::Codebook::kMcg ? codec::kMcgMultiplier : codec::kMul1Multiplier;
}

const char* torch_type_name(TensorType type) {
  constexpr const char* kNames[] = {"torch.float64",       "torch.float32",     "torch.float16", "torch.bfloat16",
                                    "torch.float8_e4m3fn", "torch.float8_e5m2", "torch.int64",   "torch.int32",
                                    "torch.int16",         "torch.int8",        "torch.uint64",  "torch.uint32",
                                    "torch.uint16",        "torch.uint8",       "torch.bool"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(TensorType::kBool) + 1);
  return kNames[static_cast<std::size_t>(type)];
}

std::int64_t tensor_bytes(const TensorSpec& spec) {
  std::int64_t bytes = tensor_type_bytes(spec.type);
  for (const std::int64_t extent : spec.shape) bytes *= extent;
  return bytes;
}

std::string module_of(const std::string& tensor) {
  const std::size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? std::string() : tensor.substr(0, dot);
}

ordered_json tensor_storage(const std::vector<TensorSpec>& tensors) {
  ordered_json storage = ordered_json::object();
  auto& modules = storage.get_ref<ordered_json::object_t&>();
  std::unordered_map<std::string, std::ptrdiff_t> places;  // an ordered object looks keys up one by one
  for (const TensorSpec& tensor : tensors) {
    const std::string module = module_of(tensor.name);
    const auto [place, added] = places.try_emplace(module, std::ssize(modules));
    if (added) modules.push_back({module, ordered_json::object()});
    describe(tensor, tensor.name.substr(tensor.name.rfind('.') + 1), (modules.begin() + place->second)->second);
  }
  return storage;
}

}  // namespace fairway::formats
