// fairway bench: options of the three benchmarks, result files.
#include "cli/bench.h"

#include <fmt/chrono.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <random>

#include "backend/cpu/features.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

// Standard output of a command without its line feed; empty if it failed.
std::string output_of(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  std::string text;
  std::array<char, 256> chunk;
  while (std::fgets(chunk.data(), static_cast<int>(chunk.size()), pipe) != nullptr) text += chunk.data();
  if (pclose(pipe) != 0) return "";
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

void fill_defaults(BenchOptions& options) {
  if (options.threads.empty()) options.threads = {backend::cpu_info().cores};
  if (options.batch.empty())
    options.batch = options.kind == "moe" ? std::vector<int>{1, 4, 16, 32, 64, 256} : std::vector<int>{1};
  if (options.prompt_len == 0) options.prompt_len = options.kind == "prefill" ? 512 : 32;
  options.command_line = command_line();
  if (options.kind != "moe" && options.batch != std::vector<int>{1}) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--batch {}: bench {} runs one sequence at a time, only --batch 1 is possible",
                            fmt::join(options.batch, ","), options.kind));
  }
}

int bench(BenchOptions options, bool json) {
  fill_defaults(options);
  std::string text;
  const Json document = options.kind == "moe"      ? bench_moe(options, text)
                        : options.kind == "decode" ? bench_decode(options, text)
                                                   : bench_prefill(options, text);
  if (!options.output.empty()) write_text_file(options.output, json_text(document), "--output");
  if (json) {
    print_json(document);
  } else {
    print_text(text);
  }
  return cancel_requested() ? kExitInterrupted : kExitOk;
}

void add_common_options(CLI::App& command, BenchOptions& options) {
  command.add_option("--model-path,--model,-m", options.model, "Model directory")->required()->type_name("DIR");
  command.add_option("--batch", options.batch, "moe: tokens per layer call, a list such as 1,4,16; else 1")
      ->delimiter(',')
      ->check(number_in(1, 65536))
      ->type_name("LIST");
  command.add_option("--threads,-t", options.threads, "Thread counts, a list such as 1,2 (default: one per processor)")
      ->delimiter(',')
      ->check(number_in(1, 4096))
      ->type_name("LIST");
  command.add_option("--warmup", options.warmup, "Rounds that are thrown away")
      ->check(number_in(0, 1e6))
      ->capture_default_str();
  command.add_option("--runs", options.runs, "Rounds that count")->check(number_in(1, 1e6))->capture_default_str();
  command.add_option("--output,-o", options.output, "Write the result file (JSON with raw samples) here")
      ->type_name("FILE");
  command
      .add_option("--ceiling-mib", options.ceiling_mib,
                  "Buffer that measures the memory ceiling (default: 512, or four times the cache if that is more)")
      ->check(number_in(8, 1 << 20));
  add_kernel_options(command, options.kernels);
  add_start_options(command, options.start);
}

void add_kind(CLI::App& bench_command, Invocation& call, const std::string& kind, const std::string& description,
              const std::string& example) {
  const auto options = std::make_shared<BenchOptions>();
  options->kind = kind;
  CLI::App* command = add_command(bench_command, call, kind, description, example);
  add_common_options(*command, *options);
  command->add_option("--prompt-len", options->prompt_len, "Random prompt tokens (default: decode 32, prefill 512)")
      ->check(number_in(1, kNoLimit));
  command->add_option("--decode-tokens", options->decode_tokens, "Tokens generated per run (decode)")
      ->check(number_in(1, kNoLimit))
      ->capture_default_str();
  if (kind == "moe") {
    command
        ->add_option("--routing", options->routing,
                     "uniform: random distinct experts per token; router: the model's own")
        ->check(CLI::IsMember({"uniform", "router"}))
        ->capture_default_str();
    command->add_option("--cell-seconds", options->cell_seconds, "Least measuring time of a combination in one round")
        ->check(number_in(0, 3600))
        ->capture_default_str();
  }
  if (kind == "decode") {
    command->add_flag("--profile", options->profile, "Show which part of a token's time goes where");
  }
  command->callback([options, &call] { call.action = [options, &call] { return bench(*options, call.json); }; });
}

}  // namespace

// As typed, from the kernel's record of this process; the program by its name, wherever it was started from.
std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  while (!text.empty() && text.back() == '\0') text.pop_back();
  text.erase(0, text.substr(0, text.find('\0')).rfind('/') + 1);  // npos + 1 is 0
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

Json result_header(const char* schema, const std::string& kind, const std::string& command) {
  return {{"schema", schema},
          {"kind", kind},
          {"version", kVersion},
          {"revision", source_revision()},
          {"date", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
          {"command", command},
          {"machine", machine_json()}};
}

Json bench_document(const BenchOptions& options, const Json& model, Json results) {
  Json document = result_header("fairway-bench-1", options.kind, options.command_line);
  document.update({{"model", model},
                   {"options",
                    {{"prompt_len", options.prompt_len},
                     {"decode_tokens", options.decode_tokens},
                     {"batch", options.batch},
                     {"threads", options.threads},
                     {"warmup", options.warmup},
                     {"runs", options.runs},
                     {"ceiling_mib", options.ceiling_mib},
                     {"routing", options.routing},
                     {"backend", options.kernels.backend},
                     {"activations", options.kernels.activations},
                     {"kernel", options.kernels.kernel}}},
                   {"stop", cancel_requested() ? "cancelled" : "complete"},
                   {"results", std::move(results)}});
  return document;
}

std::string source_revision() {
  if (const char* named = std::getenv("FAIRWAY_REVISION"); named != nullptr && *named != '\0') return named;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return "unknown";
  const std::string git = "git -C " + shell_quoted(program.parent_path().string());
  const std::string revision = output_of(git + " rev-parse HEAD 2>/dev/null");
  if (revision.empty()) return "unknown";
  return revision + (output_of(git + " status --porcelain --untracked-files=no 2>/dev/null").empty() ? "" : "-dirty");
}

std::vector<int> random_prompt(int length, int vocab_size) {
  std::mt19937_64 random(1);
  std::vector<int> ids(static_cast<std::size_t>(length));
  for (int& id : ids) id = static_cast<int>(random() % static_cast<std::uint64_t>(vocab_size));
  return ids;
}

void add_bench_command(CLI::App& app, Invocation& call) {
  const std::string example =
      "fairway bench decode --model-path models/books-moe --decode-tokens 64 --threads 1,2 --output "
      "results/decode.json";
  CLI::App* command =
      app.add_subcommand("bench", "Measure speed: medians, spread and share of the memory ceiling of the same run");
  command->footer(help_footer(example));
  command->require_subcommand(1);
  add_kind(*command, call, "decode", "Tokens per second while generating one token after the other", example);
  add_kind(*command, call, "prefill", "Tokens per second while reading a prompt",
           "fairway bench prefill --model-path models/books-moe --prompt-len 512 --threads 1,2");
  add_kind(*command, call, "moe", "Time of the expert block of one layer, cycling through the layers",
           "fairway bench moe --model-path glm-synth --batch 1,4,16,32,64,256 --threads 1,2");
  add_bench_selection(*command, call);
  add_bench_coder(*command, call);
  add_bench_device(*command, call);
}

}  // namespace fairway::cli
