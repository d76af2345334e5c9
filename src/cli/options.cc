// Shared option definitions and the helpers that act on them.
#include "cli/options.h"

#include <fmt/core.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "cli/output.h"
#include "cli/signals.h"
#include "fairway/error.h"

namespace fairway::cli {
namespace {

CLI::Validator number_check(double low, double high, bool low_allowed) {
  const bool open_end = high >= kNoLimit;
  const std::string range = open_end ? fmt::format("{} {}", low_allowed ? ">=" : ">", low)
                                     : fmt::format("{}{}, {}]", low_allowed ? '[' : '(', low, high);
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        double value = 0;
        if (!CLI::detail::lexical_cast(text, value)) return fmt::format("'{}' is not a number", text);
        const bool inside = (low_allowed ? value >= low : value > low) && value <= high;  // false for NaN
        return inside ? std::string() : fmt::format("{} is not {}{}", text, open_end ? "" : "in ", range);
      },
      range);
}

}  // namespace

CLI::App* add_command(CLI::App& app, Invocation& call, const std::string& name, const std::string& description,
                      const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer(help_footer(example));
  command->add_flag("--json", call.json, "Print one JSON document on standard output and nothing else there");
  return command;
}

void add_model_option(CLI::App& command, std::string& model) {
  command.add_option("--model,-m", model, "Model directory (config.json, *.safetensors, tokenizer.json)")
      ->required()
      ->type_name("DIR");
}

void add_threads_option(CLI::App& command, int& threads) {
  command.add_option("--threads,-t", threads, "Worker threads; 0: one per processor")
      ->check(number_in(0, 4096))
      ->type_name("N");
}

void add_kernel_options(CLI::App& command, KernelOptions& kernels) {
  command.add_option("--backend", kernels.backend, "Use rows of this backend only: cpu_ref, cpu_avx2 or cpu_avx512")
      ->type_name("NAME");
  command.add_option("--activations", kernels.activations, "What matrix products read: auto, int8, fp16 or fp32")
      ->capture_default_str()
      ->type_name("KIND");
  command
      .add_option("--kernel", kernels.kernel,
                  "Force this kernel row, family or alias for the experts (see `fairway kernels`)")
      ->type_name("NAME");
}

CLI::Validator number_in(double low, double high) {
  return number_check(low, high, true);
}
CLI::Validator number_above(double low, double high) {
  return number_check(low, high, false);
}

select::Policy make_policy(const KernelOptions& options) {
  return select::make_policy(options.backend, options.activations, options.kernel);
}

void add_device_options(CLI::App& command, DeviceOptions& device) {
  command.add_option("--device", device.device, "Where the model runs: cpu, cuda or cuda:N (see `fairway kernels`)")
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      .add_option("--kv-cache", device.kv_cache, "Keys and values on a CUDA device: f16, or fp8 for half the memory")
      ->check(CLI::IsMember({"f16", "fp8"}))
      ->capture_default_str();
  command
      .add_option("--kv-b-bits", device.kv_b_bits,
                  "Weights of kv_b_proj on a CUDA device: 16, as checkpoints have them, or 8, rounded")
      ->check(CLI::IsMember({8, 16}))
      ->capture_default_str();
  command
      .add_option("--context", device.context,
                  "Positions to keep on a CUDA device (default: the model's, or as many as fit)")
      ->check(number_in(1, kNoLimit));
}

std::optional<int> cuda_device_number(const std::string& device) {
  if (device == "cpu") return std::nullopt;
  if (device == "cuda") return 0;
  const std::string_view name = device;
  const std::string_view number = name.starts_with("cuda:") ? name.substr(5) : std::string_view();
  int value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (number.empty() || error != std::errc() || end != number.data() + number.size() || value < 0) {
    throw Error(ErrorKind::kUsage, fmt::format("--device {}: expected cpu, cuda or cuda:N", device));
  }
  return value;
}

std::optional<model::DeviceModelOptions> device_model_options(const DeviceOptions& options) {
  model::DeviceModelOptions device;
  const std::optional<int> number = cuda_device_number(options.device);
  if (!number) {
    if (options.kv_cache != "f16" || options.kv_b_bits != 16 || options.context != 0) {
      throw Error(ErrorKind::kUsage,
                  "--kv-cache, --kv-b-bits and --context are for --device cuda; on the CPU kv_b_proj stays as it is "
                  "stored, and the cache is fp32 and grows with the text");
    }
    return std::nullopt;
  }
  device.device = *number;
  device.cache = options.kv_cache == "fp8" ? model::DeviceCacheType::kFp8 : model::DeviceCacheType::kHalf;
  device.kv_b_bits = options.kv_b_bits;
  device.context = options.context;
  device.table = options.table;
  return device;
}

engine::Engine load_engine(const std::string& model, int threads, const select::Policy& policy, bool timed,
                           const DeviceOptions& device) {
  Progress progress("loading");
  Progress copying("copying to the device");
  engine::EngineOptions options;
  options.threads = threads;
  options.policy = policy;
  options.timed = timed;
  options.load_progress = [&](int done, int total) {
    throw_if_cancelled("loading the model");
    progress.update(total > 0 ? static_cast<double>(done) / total : 1.0);
  };
  options.device = device_model_options(device);
  if (options.device) {
    options.device->progress = [&](std::int64_t done, std::int64_t total) {
      throw_if_cancelled("copying the model to the device");
      copying.update(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0);
    };
  }
  return engine::Engine::load(model, options);
}

std::string read_file(const std::filesystem::path& path, const char* flag) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!std::filesystem::is_directory(path)) text << file.rdbuf();
  // An empty file sets failbit on `text` although nothing is wrong with it.
  if (!file.is_open() || file.bad() || std::filesystem::is_directory(path)) {
    const char* reason = std::filesystem::is_directory(path) ? "is a directory" : std::strerror(errno);
    throw Error(ErrorKind::kBadInput, fmt::format("{} {}: cannot read: {}", flag, path.string(), reason));
  }
  return std::move(text).str();
}

}  // namespace fairway::cli
