// One finished matrix as a file of the work folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "quantize/quantized_linear.h"

namespace fairway::quantize {

struct Part {
  QuantizedLinear linear;
  nlohmann::ordered_json facts = nlohmann::ordered_json::object();
};

// Error(kUsage) unless the lengths of the vectors fit in, out (multiples of 128) and bits (1..8).
void check_linear(const QuantizedLinear& linear);

// Atomic and durable. `job` names the job that the part belongs to.
void write_part(const std::filesystem::path& path, const std::string& job, const QuantizedLinear& linear,
                const nlohmann::ordered_json& facts);

// Error(kBadInput) if the file is not a whole part of this job for `prefix`: every byte is covered by its SHA-256.
Part read_part(const std::filesystem::path& path, const std::string& job, const std::string& prefix);

}  // namespace fairway::quantize
