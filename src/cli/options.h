// Options that several commands share, so that they are spelled and checked in one place.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "engine/engine.h"
#include "select/select.h"

namespace fairway::cli {

// Which kernels may run. Empty strings: no wish.
struct KernelOptions {
  std::string backend, activations = "auto", kernel;
};

// Where the model runs, and what it keeps there.
struct DeviceOptions {
  std::string device = "cpu";    // "cpu", "cuda" or "cuda:N"
  std::string kv_cache = "f16";  // "f16" or "fp8"; on a CUDA device only
  int kv_b_bits = 16;            // 8 or 16; on a CUDA device only
  int context = 0;               // positions on the device; 0: the model's, or as many as fit
  std::string table;             // of measured paths; "": by rules
};

// A subcommand with its footer and --json.
CLI::App* add_command(CLI::App& app, Invocation& call, const std::string& name, const std::string& description,
                      const std::string& example);

void add_model_option(CLI::App& command, std::string& model);
void add_threads_option(CLI::App& command, int& threads);
void add_device_options(CLI::App& command, DeviceOptions& device);
void add_kernel_options(CLI::App& command, KernelOptions& kernels);

constexpr double kNoLimit = 1e9;  // an upper bound that stands for "any"; integers beyond it do not fit an int

// Numbers in [low, high]; NaN is outside.
CLI::Validator number_in(double low, double high);
// Numbers in (low, high].
CLI::Validator number_above(double low, double high);

select::Policy make_policy(const KernelOptions& options);

// The number of the CUDA device that a --device names, nothing for "cpu". Error(kUsage) for anything else.
std::optional<int> cuda_device_number(const std::string& device);

// What --device, --kv-cache, --kv-b-bits and --context ask for; nothing for the CPU. Error(kUsage) for an option that
// it has not.
std::optional<model::DeviceModelOptions> device_model_options(const DeviceOptions& options);

// Loads with a progress line; Ctrl-C ends the load.
engine::Engine load_engine(const std::string& model, int threads, const select::Policy& policy, bool timed = false,
                           const DeviceOptions& device = {});

// Whole contents. `flag` names the option in messages; Error(kBadInput) if it cannot be read.
std::string read_file(const std::filesystem::path& path, const char* flag);

}  // namespace fairway::cli
