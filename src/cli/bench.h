// What the three benchmarks share: options, the interleaving of rounds, and the result file.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "cli/machine_ceiling.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/selection.h"

namespace fairway::cli {

struct BenchOptions {
  std::string kind;  // "decode", "prefill" or "moe"
  std::string model, output, routing = "uniform";
  KernelOptions kernels;
  StartOptions start;
  std::vector<int> threads, batch;  // filled with defaults before a benchmark starts
  int prompt_len = 0, decode_tokens = 64, warmup = 1, runs = 5;
  int ceiling_mib = 0;         // buffer of the memory ceiling; 0: as large as the machine's caches ask for
  bool profile = false;        // decode: the parts of a token's time
  double cell_seconds = 0.25;  // moe: least measuring time of a cell in one round
  std::string command_line;
};

// One combination that is measured in every round.
struct BenchCell {
  int threads = 1, batch = 1;
  std::vector<double> samples;     // one per round, unit chosen by the benchmark
  std::vector<Ceilings> ceilings;  // measured just before each sample

  std::vector<double> ceiling(double Ceilings::*field) const;
};

// "ceiling_gb_per_second", "share_of_ceiling" of `gb_per_second`, "ceiling_gmac_per_second", "int8_instruction",
// "core_ghz".
void add_ceilings(const BenchCell& cell, double gb_per_second, Json& json);

// Interleaved rounds: for round, for threads, (ceiling), for batch. `measure` gives one sample; the first `warmup`
// rounds are thrown away. After Ctrl-C the complete rounds are returned; without any it is Error(kCancelled).
std::vector<BenchCell> run_rounds(const BenchOptions& options,
                                  const std::function<double(int threads, int batch)>& measure);

// The result document: schema, revision, date, command, machine, model, options and one entry per cell.
Json bench_document(const BenchOptions& options, const Json& model, Json results);

// Revision of the tree the program lies in, with "-dirty" after local changes; "unknown" outside one. A program that
// was carried to another machine is told by the environment variable FAIRWAY_REVISION what it was built from.
std::string source_revision();

// How every result document begins: schema, kind, version, revision, date, command and machine.
Json result_header(const char* schema, const std::string& kind, const std::string& command);

// The command as typed, the program by its name.
std::string command_line();

// Random token ids, the same in every run.
std::vector<int> random_prompt(int length, int vocab_size);

Json bench_decode(const BenchOptions& options, std::string& text);
Json bench_prefill(const BenchOptions& options, std::string& text);
Json bench_moe(const BenchOptions& options, std::string& text);

// `fairway bench selection`, which has options of its own.
void add_bench_selection(CLI::App& bench_command, Invocation& call);

// `fairway bench device`, likewise.
void add_bench_device(CLI::App& bench_command, Invocation& call);

// `fairway bench coder`, likewise.
void add_bench_coder(CLI::App& bench_command, Invocation& call);

}  // namespace fairway::cli
