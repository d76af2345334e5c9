// Facts as JSON.
#include "cli/report.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "backend/cpu/features.h"
#include "backend/cuda/device.h"
#include "kernels/common/registry.h"
#include "select/select.h"

namespace fairway::cli {

Json counters_json(const moe::Counters& counters) {
  Json reasons = Json::object();
  for (std::size_t i = 1; i < counters.fallbacks.size(); ++i) {
    reasons[select::fallback_name(static_cast<select::Fallback>(i))] = counters.fallbacks[i];
  }
  return {{"grouped_calls", counters.grouped_calls},
          {"expert_groups", counters.expert_groups},
          {"bit_tuples", counters.bit_tuples},
          {"fallback_calls", counters.fallback_calls()},
          {"fallbacks", reasons}};
}

Json kernels_json(const moe::Counters& counters) {
  Json calls = Json::object();
  for (const kernels::KernelRow* row : kernels::all_kernel_rows()) {  // registration order, not pointer order
    const auto found = counters.kernels.find(row);
    if (found != counters.kernels.end()) calls[row->id] = found->second;
  }
  return calls;
}

Json machine_json() {
  const backend::CpuInfo& cpu = backend::cpu_info();
  return {{"cpu", cpu.name},          {"features", backend::cpu_feature_names(cpu.features)},
          {"cores", cpu.cores},       {"l2_bytes", cpu.l2_bytes},
          {"l3_bytes", cpu.l3_bytes}, {"memory_bytes", cpu.memory_bytes}};
}

Json model_json(const model::Model& model) {
  const formats::ModelConfig& config = model.config();
  const std::filesystem::path directory = model.checkpoint().directory();
  return {{"directory", directory.string()},
          {"architecture", config.architecture_name},
          {"layers", config.num_hidden_layers},
          {"hidden_size", config.hidden_size},
          {"routed_experts", config.n_routed_experts},
          {"experts_per_token", config.num_experts_per_tok},
          {"file_bytes", model.checkpoint().file_bytes()},
          {"weight_bytes_per_token", model.weight_bytes_per_token()}};
}

Json device_json(const model::DeviceModel& device) {
  const model::DeviceMemoryNeed& memory = device.memory();
  return {{"name", backend::cuda_device_info(device.device()).name},
          {"index", device.device()},
          {"kv_cache", model::device_cache_type_name(device.cache_type())},
          {"kv_b_bits", device.kv_b_bits()},
          {"sequences", device.sequences()},
          {"context", device.context()},
          {"weight_bytes", memory.weights},
          {"cache_bytes", memory.cache},
          {"scratch_bytes", memory.scratch}};
}

Json device_json(const engine::Engine& engine) {
  return engine.device() == nullptr ? Json() : device_json(*engine.device());
}

std::string runs_on(const engine::Engine& engine) {
  return engine.device() == nullptr ? busiest_kernel(engine.counters())
                                    : backend::cuda_device_info(engine.device()->device()).name;
}

std::string busiest_kernel(const moe::Counters& counters) {
  const kernels::KernelRow* best = nullptr;
  std::uint64_t best_calls = 0;
  bool best_is_expert = false;
  for (const kernels::KernelRow* row : kernels::all_kernel_rows()) {
    const auto found = counters.kernels.find(row);
    if (found == counters.kernels.end()) continue;
    const bool is_expert = std::strcmp(row->op, "moe_swiglu") == 0;
    if (is_expert < best_is_expert || (is_expert == best_is_expert && found->second <= best_calls)) continue;
    best = row;
    best_calls = found->second;
    best_is_expert = is_expert;
  }
  return best == nullptr ? "none" : best->id;
}

double median(std::span<const double> samples) {
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

Json spread_json(std::span<const double> samples) {
  const auto [low, high] = std::minmax_element(samples.begin(), samples.end());
  return {{"median", median(samples)},
          {"min", *low},
          {"max", *high},
          {"samples", std::vector<double>(samples.begin(), samples.end())}};
}

}  // namespace fairway::cli
