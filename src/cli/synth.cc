// fairway synth: a valid checkpoint of any supported size with random codes, for speed work.
#include "cli/synth.h"

#include <fmt/core.h>

#include <chrono>
#include <memory>
#include <numeric>

#include "backend/cuda/device.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"

namespace fairway::cli {
namespace {

namespace fs = std::filesystem;

struct Source {
  fs::path config;     // the file
  fs::path directory;  // where tokenizer.json may lie
};

Source find_source(const std::string& config) {
  const fs::path path(config);
  const fs::path file = fs::is_directory(path) ? path / "config.json" : path;
  return {file, file.has_parent_path() ? file.parent_path() : fs::path(".")};
}

bool is_weight_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with("model") && (name.ends_with(".safetensors") || name == "model.safetensors.index.json");
}

// Removes the weight files of an earlier run, or refuses.
void prepare_output(const SynthOptions& options, const Source& source) {
  const fs::path out(options.out);
  std::error_code error;
  fs::create_directories(out, error);
  if (error || !fs::is_directory(out)) {
    throw Error(ErrorKind::kResource,
                fmt::format("--out {}: cannot create the directory: {}", options.out, error.message()));
  }
  if (fs::equivalent(out, source.directory, error)) {
    throw Error(ErrorKind::kUsage, fmt::format("--out {} is the directory that --config comes from", options.out));
  }
  if (fs::is_empty(out)) return;
  if (!options.force) {
    throw Error(ErrorKind::kUsage, fmt::format("--out {} is not empty; --force replaces the model in it", options.out));
  }
  std::vector<fs::path> old;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    if (is_weight_file(entry.path())) old.push_back(entry.path());
  }
  for (const fs::path& path : old) fs::remove(path);
}

void check_space(const fs::path& out, const std::vector<SynthTensor>& tensors) {
  std::uint64_t needed = 0;
  for (const SynthTensor& tensor : tensors) needed += static_cast<std::uint64_t>(tensor.bytes());
  const std::uint64_t available = fs::space(out).available;
  if (needed > available) {
    throw Error(ErrorKind::kResource,
                fmt::format("--out {}: the checkpoint needs {} bytes, {} are free", out.string(), needed, available));
  }
}

void write_side_files(const nlohmann::ordered_json& config, const std::vector<SynthTensor>& tensors, int vocab_size,
                      const Source& source, const fs::path& out) {
  nlohmann::ordered_json quantization = config["quantization_config"];
  quantization["tensor_storage"] = formats::tensor_storage(specs_of(tensors));
  write_text_file(out / "quantization_config.json", json_text(quantization), "--out");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    if (fs::exists(source.directory / name)) {
      fs::copy_file(source.directory / name, out / name, fs::copy_options::overwrite_existing);
    } else if (std::string_view(name) == "tokenizer.json") {
      write_text_file(out / name, byte_tokenizer_json(vocab_size), "--out");
    }
  }
}

double mean_bits(const std::vector<kernels::BitTuple>& tuples) {
  int sum = 0;
  for (const kernels::BitTuple& tuple : tuples) sum += tuple.gate + tuple.up + tuple.down;
  return sum / (3.0 * static_cast<double>(tuples.size()));
}

int synth(const SynthOptions& options, bool json) {
  const std::optional<int> device = cuda_device_number(options.device);
  if (device) backend::require_cuda_device(*device);
  const std::vector<kernels::BitTuple> tuples = parse_bit_tuples(options.bits);
  const Source source = find_source(options.config);
  const nlohmann::ordered_json config_json =
      synth_config(read_file(source.config, "--config"), source.config.string(), options, mean_bits(tuples));
  const formats::ModelConfig config = formats::parse_model_config(config_json.dump(), source.config.string());
  const std::vector<SynthTensor> tensors = plan_tensors(config, options, tuples);
  if (!fs::exists(source.directory / "tokenizer.json"))
    byte_tokenizer_json(config.vocab_size);  // refuse before writing

  const auto begin = std::chrono::steady_clock::now();
  prepare_output(options, source);
  const fs::path out(options.out);
  check_space(out, tensors);
  write_tensors(tensors, options.seed, out, device);
  write_side_files(config_json, tensors, config.vocab_size, source, out);
  // Last, so that a directory that was interrupted is not taken for a model.
  write_text_file(out / "config.json", json_text(config_json), "--out");

  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::int64_t bytes = 0;
  for (const SynthTensor& tensor : tensors) bytes += tensor.bytes();
  if (json) {
    print_json({{"out", options.out},
                {"architecture", config.architecture_name},
                {"layers", config.num_hidden_layers},
                {"tensors", tensors.size()},
                {"bytes", bytes},
                {"mean_expert_bits", mean_bits(tuples)},
                {"codebook", options.codebook},
                {"device", options.device},
                {"seconds", seconds},
                {"seed", options.seed}});
  } else {
    print_text(fmt::format("{}: {} with {} layers, {} tensors, {} in {:.1f} s\n", options.out, config.architecture_name,
                           config.num_hidden_layers, tensors.size(), human_bytes(static_cast<double>(bytes)), seconds));
  }
  return kExitOk;
}

}  // namespace

void add_synth_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<SynthOptions>();
  CLI::App* command =
      add_command(app, call, "synth", "Write an EXL3 checkpoint with random codes, for speed work at full size",
                  "fairway synth --config bench/configs/glm-4.7-flash.json --bits 3 --layers 8 --out glm-synth");
  command->add_option("--config", options->config, "config.json or a directory that holds one")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--bits", options->bits,
                   "3, or gate,up,down as 6,2,3, or a list \"6,2,3;2,2,2\" that experts take in turn")
      ->required()
      ->type_name("TUPLES");
  command->add_option("--out", options->out, "Directory to write")->required()->type_name("DIR");
  command->add_option("--layers", options->layers, "Layers to write (default: as in the config)")
      ->check(number_in(1, 4096));
  command->add_option("--codebook", options->codebook, "Of every trellis")
      ->check(CLI::IsMember({"mul1", "mcg", "3inst"}))
      ->capture_default_str();
  command->add_option("--head-bits", options->head_bits, "Width of lm_head")
      ->check(number_in(1, 8))
      ->capture_default_str();
  command
      ->add_option("--attention-bits", options->attention_bits, "Width of attention matrices (default: mean of --bits)")
      ->check(number_in(1, 8));
  command
      ->add_option("--device", options->device,
                   "What makes the random numbers: cpu, cuda or cuda:N; the bytes are the same")
      ->type_name("DEVICE")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Same seed, same bytes")->capture_default_str();
  command->add_flag("--force", options->force, "Replace the model in a directory that is not empty");
  command->callback([options, &call] { call.action = [options, &call] { return synth(*options, call.json); }; });
}

}  // namespace fairway::cli
