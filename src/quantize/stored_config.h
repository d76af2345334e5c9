// What a checkpoint says about its quantization, compared with its tensors.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quantize/stored_modules.h"

namespace fairway::quantize {

// quantization_config of config.json: method, head_bits, codebook, types of the other keys; the same object in
// quantization_config.json; tensor_storage: every entry as the files have it, every coded linear listed.
void check_quantization_config(const std::filesystem::path& dir, const StoredModules& modules,
                               std::vector<std::string>& problems, std::vector<std::string>& notes);

}  // namespace fairway::quantize
