// fairway bench device: decode and prefill on a CUDA device, by batch, context and prompt length.
#include <fmt/core.h>

#include <chrono>
#include <memory>

#include "backend/cuda/device.h"
#include "backend/cuda/profiler.h"
#include "cli/bench.h"
#include "cli/device_source.h"
#include "cli/report.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

using Clock = std::chrono::steady_clock;
using model::DeviceModel;

const Clock::time_point kProgramStart = Clock::now();  // as the program's objects are made, before main()

struct DeviceBenchOptions {
  DeviceSource source;
  std::string output, table;
  DeviceOptions device;
  std::vector<int> batch = {1}, context = {0}, prefill;
  int steps = 64, warmup = 1, runs = 5;
  kernels::SampleParams sample;
  bool profile = false;
};

// One decode or prefill cell and its samples, a round each.
struct DeviceCell {
  int batch, context, tokens;  // tokens: of the prompt for prefill, steps for decode
  bool prefill;
  std::vector<double> wall_us, device_us;  // per step, or of the whole prompt
  std::size_t nodes = 0;
};

double microseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

// Every step's tokens are read on the host before the next but one is queued, as a server would.
void measure_decode(DeviceModel& device, DeviceCell& cell, bool counts) {
  for (int i = 0; i < cell.batch; ++i) {
    device.truncate(i, 0);
    device.pretend_length(i, cell.context);
  }
  device.start(random_prompt(cell.batch, device.config().vocab_size));
  device.step();  // records the graph if it is the first
  device.take_step();
  device.synchronize();
  double on_device = 0;
  const auto begin = Clock::now();
  device.step();
  for (int i = 1; i < cell.tokens; ++i) {
    device.step();
    device.take_step();
    on_device += device.step_microseconds();
  }
  device.take_step();
  on_device += device.step_microseconds();
  const double wall = microseconds_since(begin);
  cell.nodes = device.step_nodes();
  device.stop();
  if (!counts) return;
  cell.wall_us.push_back(wall / cell.tokens);
  cell.device_us.push_back(on_device / cell.tokens);
}

void measure_prefill(DeviceModel& device, DeviceCell& cell, bool counts) {
  device.truncate(0, 0);
  const std::vector<int> ids = random_prompt(cell.tokens, device.config().vocab_size);
  std::vector<float> logits(static_cast<std::size_t>(device.config().vocab_size));
  device.synchronize();
  double on_device = 0;
  const auto begin = Clock::now();
  for (std::size_t done = 0; done < ids.size();) {
    const std::size_t rows = std::min(ids.size() - done, static_cast<std::size_t>(device.pass_rows()));
    device.forward(std::span(ids).subspan(done, rows));
    on_device += device.forward_microseconds();
    done += rows;
  }
  device.logits(device.forward_rows() - 1, 1, logits.data());
  const double wall = microseconds_since(begin);
  if (!counts) return;
  cell.wall_us.push_back(wall);
  cell.device_us.push_back(on_device);
}

// One decode step, or one prompt and the logits after it.
void profile_pass(DeviceModel& device, DeviceCell cell) {
  for (int i = 0; i < cell.batch; ++i) {
    device.truncate(i, 0);
    device.pretend_length(i, cell.context);
  }
  if (!cell.prefill) device.start(random_prompt(cell.batch, device.config().vocab_size));
  device.synchronize();
  const backend::ProfiledRange range;
  if (cell.prefill) {
    measure_prefill(device, cell, false);
  } else {
    device.step();
    device.take_step();
  }
  device.synchronize();
}

// A prompt of one token and the token after it; forgotten again. What is made once is made by it.
void take_first_token(DeviceModel& device) {
  device.start(random_prompt(1, device.config().vocab_size));
  device.step();
  device.take_step();
  device.stop();
  device.truncate(0, 0);
}

// Of the whole device, so that context, code and graphs of this program are in it, and other programs too.
Json memory_json(const DeviceModel& device) {
  const backend::CudaMemory memory = backend::cuda_memory(device.device());
  const std::int64_t used = memory.total_bytes - memory.free_bytes;
  return {{"used_bytes", used},
          {"beyond_weights_and_cache_bytes", used - device.memory().weights - device.memory().cache}};
}

// Tokens per second of every sample.
std::vector<double> rates_of(const DeviceCell& cell) {
  std::vector<double> rates;
  for (const double us : cell.wall_us) rates.push_back(1e6 * (cell.prefill ? cell.tokens : cell.batch) / us);
  return rates;
}

Json sampling_json(const kernels::SampleParams& sample) {
  if (sample.temperature == 0) return "greedy";
  return {{"temperature", sample.temperature}, {"top_k", sample.top_k}, {"top_p", sample.top_p}};
}

Json cell_json(const DeviceCell& cell) {
  const std::vector<double> rates = rates_of(cell);
  Json json = {{"kind", cell.prefill ? "prefill" : "decode"}};
  if (cell.prefill) {
    json["prompt_tokens"] = cell.tokens;
  } else {
    json.update({{"batch", cell.batch}, {"context", cell.context}, {"steps", cell.tokens}});
  }
  json["tokens_per_second"] = median(rates);
  json["rate"] = spread_json(rates);
  json["wall_us"] = spread_json(cell.wall_us);
  json["device_us"] = spread_json(cell.device_us);
  if (!cell.prefill) json["graph_nodes"] = cell.nodes;
  return json;
}

std::string cell_text(const DeviceCell& cell) {
  const std::string what = cell.prefill ? fmt::format("prefill {:>6} tokens           ", cell.tokens)
                                        : fmt::format("decode  batch {:>3} context {:>6}", cell.batch, cell.context);
  return fmt::format("{}  {:10.1f} tokens/s  {:10.1f} us wall  {:10.1f} us on the device\n", what,
                     median(rates_of(cell)), median(cell.wall_us), median(cell.device_us));
}

int largest(const std::vector<int>& values, int least) {
  int most = least;
  for (const int v : values) most = std::max(most, v);
  return most;
}

model::DeviceModelOptions placement(const DeviceBenchOptions& options) {
  DeviceOptions device = options.device;
  if (device.device == "cpu") device.device = "cuda";
  model::DeviceModelOptions placed = *device_model_options(device);
  placed.table = options.table;
  placed.sequences = largest(options.batch, 1);
  const int longest = std::max(largest(options.context, 0) + options.steps + 2, largest(options.prefill, 1));
  if (placed.context == 0) placed.context = longest;
  placed.pass_rows = std::min(largest(options.prefill, 64), 4096);
  return placed;
}

std::vector<DeviceCell> make_cells(const DeviceBenchOptions& options) {
  std::vector<DeviceCell> cells;
  for (const int batch : options.batch) {
    for (const int context : options.context) cells.push_back({batch, context, options.steps, false, {}, {}});
  }
  for (const int tokens : options.prefill) cells.push_back({1, 0, tokens, true, {}, {}});
  return cells;
}

int bench_device(const DeviceBenchOptions& options, bool json) {
  check_device_source(options.source);
  const auto begin = Clock::now();
  DeviceModel device = make_device_model(options.source, placement(options));
  const double load_seconds = microseconds_since(begin) * 1e-6;
  device.set_sampling(options.sample, {});
  take_first_token(device);
  const double first_token_seconds = microseconds_since(kProgramStart) * 1e-6;
  std::vector<DeviceCell> cells = make_cells(options);
  Progress progress("measuring");
  const int rounds = options.warmup + options.runs;
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      throw_if_cancelled("measuring");
      const bool counts = round >= options.warmup;
      if (cells[i].prefill) {
        measure_prefill(device, cells[i], counts);
      } else {
        measure_decode(device, cells[i], counts);
      }
      progress.update((round + static_cast<double>(i + 1) / static_cast<double>(cells.size())) / rounds);
    }
  }
  progress.clear();
  if (options.profile) {
    for (const DeviceCell& cell : cells) profile_pass(device, cell);
  }
  Json results = Json::array();
  std::string text;
  for (const DeviceCell& cell : cells) {
    results.push_back(cell_json(cell));
    text += cell_text(cell);
  }
  const Json memory = memory_json(device);
  text += fmt::format(
      "load {:.3f} s, first token after {:.3f} s; {} of the device's memory in use beyond weights and cache\n",
      load_seconds, first_token_seconds, human_bytes(memory["beyond_weights_and_cache_bytes"].get<double>()));
  Json document = result_header("fairway-device-bench-1", "device", command_line());
  document.update({{"device", device_json(device)},
                   {"model", device_source_json(options.source)},
                   {"table", options.table.empty() ? Json(nullptr) : Json(options.table)},
                   {"sampling", sampling_json(options.sample)},
                   {"path_calls", device.path_calls()},
                   {"load_seconds", load_seconds},
                   {"first_token_seconds", first_token_seconds},
                   {"memory", memory},
                   {"warmup", options.warmup},
                   {"runs", options.runs},
                   {"results", std::move(results)}});
  if (!options.output.empty()) write_text_file(options.output, json_text(document), "--output");
  if (json) {
    print_json(document);
  } else {
    print_text(text);
  }
  return kExitOk;
}

}  // namespace

void add_bench_device(CLI::App& bench_command, Invocation& call) {
  const auto options = std::make_shared<DeviceBenchOptions>();
  CLI::App* command = add_command(bench_command, call, "device",
                                  "Tokens per second on a CUDA device, by batch, context and prompt length",
                                  "fairway bench device --config bench/configs/glm-4.7-flash.json --bits 3 --batch "
                                  "1,2,4,8 --context-lengths 0,4096 "
                                  "--prefill 512,2048");
  command->add_option("--model-path,--model,-m", options->source.model, "Model directory")->type_name("DIR");
  add_random_model_options(*command, options->source);
  command
      ->add_option("--bits", options->source.bits,
                   "With --config: 3, or gate,up,down as 6,2,3, or a list \"6,2,3;6,3,4\" that experts take in turn")
      ->type_name("TUPLES")
      ->capture_default_str();
  command->add_option("--codebook", options->source.codebook, "With --config")
      ->check(CLI::IsMember({"mul1", "mcg", "3inst"}))
      ->capture_default_str();
  add_device_options(*command, options->device);
  command->add_option("--table", options->table, "Paths of `fairway autotune --device` (default: by rules)")
      ->type_name("FILE");
  command->add_option("--batch", options->batch, "Sequences of a decode step, a list such as 1,4,16")
      ->delimiter(',')
      ->check(number_in(1, 64))
      ->type_name("LIST");
  command->add_option("--context-lengths", options->context, "Positions before the first measured one, a list")
      ->delimiter(',')
      ->check(number_in(0, kNoLimit))
      ->type_name("LIST");
  command->add_option("--prefill", options->prefill, "Prompt lengths, a list such as 128,512,2048")
      ->delimiter(',')
      ->check(number_in(1, kNoLimit))
      ->type_name("LIST");
  command->add_option("--temperature", options->sample.temperature, "Of decoding; 0: greedy")
      ->check(number_in(0, 100))
      ->capture_default_str();
  command->add_option("--top-k", options->sample.top_k, "With a temperature: keep the k likeliest tokens; 0: off")
      ->check(number_in(0, kNoLimit));
  command->add_option("--top-p", options->sample.top_p, "With a temperature: keep the likeliest up to this probability")
      ->check(number_above(0, 1));
  command->add_option("--steps", options->steps, "Decode steps of a sample")
      ->check(number_in(1, 1e6))
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "Rounds that are thrown away")
      ->check(number_in(0, 1e6))
      ->capture_default_str();
  command->add_option("--runs", options->runs, "Rounds that count")->check(number_in(1, 1e6))->capture_default_str();
  command->add_flag(
      "--profile", options->profile,
      "At the end, one more pass of each kind between marks for a profiler (ncu --profile-from-start off)");
  command->add_option("--output,-o", options->output, "Write the result file (JSON with raw samples) here")
      ->type_name("FILE");
  command->callback([options, &call] { call.action = [options, &call] { return bench_device(*options, call.json); }; });
}

}  // namespace fairway::cli
