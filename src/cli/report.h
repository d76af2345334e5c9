// JSON and one-line forms of facts that several commands report: counters, kernels, the machine, the model.
#pragma once

#include <span>
#include <string>

#include "cli/output.h"
#include "engine/engine.h"
#include "moe/counters.h"

namespace fairway::cli {

Json counters_json(const moe::Counters& counters);
Json kernels_json(const moe::Counters& counters);  // row id -> calls
Json machine_json();
Json model_json(const model::Model& model);
// Null if the model runs on the CPU, else the device and what the model takes of it.
Json device_json(const engine::Engine& engine);
Json device_json(const model::DeviceModel& device);
// "NVIDIA H200" or the busiest kernel of the CPU.
std::string runs_on(const engine::Engine& engine);

// The expert row with the most calls, or the busiest row of any op if no expert ran; "none" if nothing ran.
std::string busiest_kernel(const moe::Counters& counters);

// Median of an odd or even number of samples; at least one.
double median(std::span<const double> samples);
Json spread_json(std::span<const double> samples);  // {"median", "min", "max", "samples"}

}  // namespace fairway::cli
