// fairway autotune: times the kernels of MoE calls on this machine and writes the table that other commands start with.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "backend/cpu/features.h"
#include "cli/autotune_device.h"
#include "cli/cli.h"
#include "cli/plan.h"
#include "cli/signals.h"
#include "cli/tune_task.h"

namespace fairway::cli {
namespace {

struct AutotuneOptions {
  TuneTask task;  // what the flags say
  bool quick = false;
  std::string output, plan, emit_plan, profile;
  DeviceOptions device;  // not cpu: paths of the CUDA kernels
  DeviceSource random;
};

bool names_layers(const AutotuneOptions& options) {
  return !options.task.layers.model.empty() || !options.task.layers.geometry.empty();
}

// Flags beside a profile replace what the profile says.
std::vector<TuneTask> tasks_of_profile(const AutotuneOptions& options) {
  std::vector<TuneTask> tasks = profile_tasks(options.profile);
  const TuneTask& flags = options.task;
  const double budget = flags.budget_seconds > 0 ? flags.budget_seconds
                        : options.quick          ? kQuickBudgetSeconds
                                                 : kBudgetSeconds;
  for (TuneTask& task : tasks) {
    if (!flags.batch_sizes.empty()) task.batch_sizes = flags.batch_sizes;
    task.threads = flags.threads;
    task.iterations = flags.iterations;
    task.warmup = flags.warmup;
    task.budget_seconds = budget / static_cast<double>(tasks.size());
    task.layers.codebook = flags.layers.codebook;
  }
  return tasks;
}

std::vector<TuneTask> tasks_of(const AutotuneOptions& options) {
  const int sources = names_layers(options) + !options.plan.empty() + !options.profile.empty();
  if (sources != 1) {
    throw Error(ErrorKind::kUsage,
                "exactly one of --model DIR, --geometry NAME, --profile NAME and --plan FILE is "
                "needed");
  }
  std::vector<TuneTask> tasks;
  if (!options.plan.empty()) {
    tasks = read_plan(options.plan);
  } else if (!options.profile.empty()) {
    tasks = tasks_of_profile(options);
  } else {
    check_layer_options(options.task.layers);
    TuneTask task = options.task;
    task.name =
        task.layers.model.empty() ? task.layers.geometry : std::filesystem::path(task.layers.model).filename().string();
    if (task.name.empty()) task.name = "model";
    tasks = {std::move(task)};
  }
  for (TuneTask& task : tasks) {
    fill_defaults(task, options.quick);
    if (options.plan.empty()) task.verify = {"fairway", "verify", "--rounds", "1"};
  }
  return tasks;
}

int emit(const AutotuneOptions& options, const std::vector<TuneTask>& tasks, bool json) {
  const std::string text = plan_text(tasks);
  parse_plan(text, options.emit_plan);  // a plan that this program would refuse is a defect of it
  write_text_file(options.emit_plan, text, "--emit-plan");
  if (json) {
    print_json({{"plan", options.emit_plan}, {"tasks", tasks.size()}});
  } else {
    print_text(fmt::format("{}: {} task{}; run it with `fairway autotune --plan {}`\n", options.emit_plan, tasks.size(),
                           tasks.size() == 1 ? "" : "s", options.emit_plan));
  }
  return kExitOk;
}

// Until the last one is done or the user has had enough.
std::vector<TuneOutcome> run_tasks(const std::vector<TuneTask>& tasks, bool json) {
  std::vector<TuneOutcome> outcomes;
  for (const TuneTask& task : tasks) {
    Progress progress("tuning " + task.name);
    try {
      outcomes.push_back(run_task(task, [&](double share, const std::string& what) { progress.update(share, what); }));
    } catch (const Error& e) {  // while loading: what other tasks found stays
      if (e.kind() != ErrorKind::kCancelled || outcomes.empty()) throw;
    }
    progress.clear();
    if (!json && !outcomes.empty() && !outcomes.back().entries.empty()) print_text(outcome_text(outcomes.back()));
    if (cancel_requested()) break;
  }
  return outcomes;
}

// Each distinct command once. Exit code of the program.
int run_verify(const std::vector<TuneTask>& tasks) {
  std::vector<std::vector<std::string>> done;
  for (const TuneTask& task : tasks) {
    if (task.verify.empty() || std::find(done.begin(), done.end(), task.verify) != done.end()) continue;
    done.push_back(task.verify);
    const int code = run_command(task.verify);
    if (code == 0) continue;
    fmt::print(stderr, "fairway: error: verify of task {}: `{}` ended with exit code {}\n", task.name,
               fmt::join(task.verify, " "), code);
    return code == kExitInterrupted ? kExitInterrupted : kExitInternal;
  }
  return kExitOk;
}

// The options that autotuning on a device shares with the CPU's.
int tune_device(const AutotuneOptions& options, bool json) {
  const TuneTask& task = options.task;
  if (!task.layers.geometry.empty() || !task.text.empty() || !options.plan.empty() || !options.emit_plan.empty() ||
      !options.profile.empty() || options.quick) {
    throw Error(ErrorKind::kUsage,
                "--geometry, --text, --quick, --profile, --plan and --emit-plan are for the CPU; with --device give "
                "--model DIR "
                "or --config FILE");
  }
  DeviceTuneOptions tune{.source = options.random,
                         .device = options.device,
                         .rows = task.batch_sizes,
                         .rounds = task.iterations,
                         .budget_seconds = task.budget_seconds,
                         .output = options.output};
  tune.source.model = task.layers.model;
  if (!task.layers.bits.empty()) tune.source.bits = task.layers.bits;
  tune.source.codebook = task.layers.codebook;
  return autotune_device(tune, json);
}

int autotune(const AutotuneOptions& options, bool json) {
  if (options.device.device != "cpu") return tune_device(options, json);
  if (!options.random.config.empty()) throw Error(ErrorKind::kUsage, "--config is for --device cuda; see --geometry");
  const std::vector<TuneTask> tasks = tasks_of(options);
  if (!options.emit_plan.empty()) return emit(options, tasks, json);
  const std::filesystem::path path = table_path(options.output);
  const std::vector<TuneOutcome> outcomes = run_tasks(tasks, json);
  std::size_t found = 0;
  bool complete = outcomes.size() == tasks.size();
  for (const TuneOutcome& outcome : outcomes) {
    found += outcome.entries.size();
    complete = complete && outcome.complete;
  }
  const bool stopped = cancel_requested();
  if (found == 0) throw_if_cancelled("tuning, before any call was timed");
  const std::size_t in_file = write_entries(path, outcomes);
  if (json) {
    Json all = Json::array();
    for (const TuneOutcome& outcome : outcomes) all.push_back(outcome_json(outcome));
    print_json({{"output", path.string()},
                {"entries_in_file", in_file},
                {"stop", stopped    ? "cancelled"
                         : complete ? "complete"
                                    : "out_of_time"},
                {"tasks", std::move(all)}});
  } else {
    print_text(fmt::format("{}: {} entries written, {} in the file\n", path.string(), found, in_file));
  }
  if (stopped) {
    fmt::print(stderr, "fairway: interrupted; what was measured until then is in {}\n", path.string());
    return kExitInterrupted;
  }
  if (!complete) {
    fmt::print(stderr,
               "fairway: note: the budget ended before every batch size had been timed; a larger --budget or "
               "fewer --batch-sizes help\n");
  }
  return options.plan.empty() ? kExitOk : run_verify(tasks);
}

}  // namespace

void add_autotune_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<AutotuneOptions>();
  TuneTask& task = options->task;
  CLI::App* command =
      add_command(app, call, "autotune", "Time the kernels of MoE calls on this machine and write the tuned table",
                  "fairway autotune --model models/books-moe --quick");
  add_layer_options(*command, task.layers);
  command->add_option("--text", task.text, "With --model: text to record hidden states from (default: a short one)")
      ->type_name("FILE");
  command->add_flag("--quick", options->quick, "Fewer batch sizes and samples, a budget of 10 s");
  command
      ->add_option("--batch-sizes", task.batch_sizes,
                   "Tokens of a call, a list (default: powers of 2 up to 512; --quick 1,4,16,64,256)")
      ->delimiter(',')
      ->check(number_in(1, 65536))
      ->type_name("LIST");
  command->add_option("--iterations", task.iterations, "Samples per kernel at most (default 15; --quick 8)")
      ->check(number_in(1, 1e6))
      ->type_name("N");
  command->add_option("--warmup", task.warmup, "Samples of the default that are thrown away first")
      ->check(number_in(0, 1e6))
      ->capture_default_str();
  command->add_option("--budget", task.budget_seconds, "Seconds for everything, loading too (default 60; --quick 10)")
      ->check(number_above(0, 1e6))
      ->type_name("SECONDS");
  add_threads_option(*command, task.threads);
  command
      ->add_option("--device", options->device.device,
                   "cuda or cuda:N: time the paths of the CUDA kernels there, and write a table of these")
      ->type_name("DEVICE")
      ->capture_default_str();
  add_random_model_options(*command, options->random);
  command->add_option("--output,-o", options->output, "Table to write or add to (default: where commands look for it)")
      ->type_name("FILE");
  command->add_option("--profile", options->profile, "Named tasks: mixed_bpw_fairway_glm47")->type_name("NAME");
  command->add_option("--plan", options->plan, "Run the tasks of this YAML file")->type_name("FILE");
  command->add_option("--emit-plan", options->emit_plan, "Measure nothing; write the plan of the other options")
      ->type_name("FILE");
  command->callback([options, &call] { call.action = [options, &call] { return autotune(*options, call.json); }; });
}

}  // namespace fairway::cli
