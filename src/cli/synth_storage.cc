// The index of stored tensors that EXL3 writers put into quantization_config.json.
#include <iterator>
#include <map>
#include <stdexcept>

#include "cli/synth.h"

namespace fairway::cli {
namespace {

using nlohmann::ordered_json;

const char* torch_name(formats::TensorType type) {
  switch (type) {
    case formats::TensorType::kBf16:
      return "torch.bfloat16";
    case formats::TensorType::kF16:
      return "torch.float16";
    case formats::TensorType::kI16:
      return "torch.int16";
    case formats::TensorType::kI32:
      return "torch.int32";
    default:
      throw std::logic_error("fairway synth plans no tensor of this type");
  }
}

// What one tensor says about the module it belongs to.
void describe(const SynthTensor& tensor, const std::string& kind, ordered_json& module) {
  module["stored_tensors"][tensor.spec.name] = {
      {"shape", tensor.spec.shape}, {"n_bytes", tensor.bytes()}, {"dtype", torch_name(tensor.spec.type)}};
  if (kind == "trellis") {
    module["quant_format"] = "exl3";
    module["bits_per_weight"] = tensor.spec.shape.back() / 16;  // 256 weights of a tile in 16 words per bit
  }
  if (tensor.fill == Fill::kFlag) module[kind + "_multiplier"] = tensor.flag;
}

}  // namespace

ordered_json tensor_storage(const std::vector<SynthTensor>& tensors) {
  ordered_json storage = ordered_json::object();
  auto& modules = storage.get_ref<ordered_json::object_t&>();
  std::map<std::string, std::ptrdiff_t> places;  // an ordered object looks keys up one by one
  for (const SynthTensor& tensor : tensors) {
    const std::size_t dot = tensor.spec.name.rfind('.');
    const auto [place, added] = places.try_emplace(tensor.spec.name.substr(0, dot), std::ssize(modules));
    if (added) modules.push_back({place->first, ordered_json::object()});
    describe(tensor, tensor.spec.name.substr(dot + 1), (modules.begin() + place->second)->second);
  }
  return storage;
}

}  // namespace fairway::cli
