// The command line: one application, one subcommand per file, and what their exit codes mean.
#pragma once

#include <functional>
#include <string>

#include "fairway/error.h"

namespace CLI {
class App;
}

namespace fairway::cli {

constexpr const char* kVersion = "0.1.0";  // equal to project(VERSION) in CMakeLists.txt; a test compares them

constexpr int kExitOk = 0;
constexpr int kExitInternal = 1;       // a defect of the program
constexpr int kExitBadInput = 2;       // wrong usage, malformed or unsupported input
constexpr int kExitResource = 3;       // memory, disk or device is not sufficient
constexpr int kExitInterrupted = 130;  // 128 + SIGINT, as shells report it

int exit_code_of(ErrorKind kind);
const char* error_kind_name(ErrorKind kind);  // "usage", "bad_input", ...

// What parsing leaves behind: the chosen command and whether it must print JSON only.
struct Invocation {
  std::function<int()> action;
  bool json = false;
};

// Footer of every --help: the example, then the exit codes.
std::string help_footer(const std::string& example);

void add_run_command(CLI::App& app, Invocation& call);
void add_eval_command(CLI::App& app, Invocation& call);
void add_compare_command(CLI::App& app, Invocation& call);
void add_inspect_command(CLI::App& app, Invocation& call);
void add_kernels_command(CLI::App& app, Invocation& call);
void add_bench_command(CLI::App& app, Invocation& call);
void add_synth_command(CLI::App& app, Invocation& call);
void add_verify_command(CLI::App& app, Invocation& call);
void add_verify_model_command(CLI::App& app, Invocation& call);
void add_explain_command(CLI::App& app, Invocation& call);
void add_autotune_command(CLI::App& app, Invocation& call);
void add_optimize_command(CLI::App& app, Invocation& call);
void add_quantize_command(CLI::App& app, Invocation& call);

// All of them, with the options that every command has.
void add_commands(CLI::App& app, Invocation& call);

// Parses, runs, reports errors; returns the process's exit code. Throws nothing.
int run_cli(int argc, const char* const* argv);

}  // namespace fairway::cli
