// fairway quantize: a plain checkpoint becomes an EXL3 one whose matrices each have the width that pays best.
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "cli/bench.h"
#include "cli/calibration_ids.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/selection.h"
#include "cli/signals.h"
#include "cli/synth.h"
#include "quantize/job.h"
#include "quantize/plan_report.h"
#include "quantize/sensitivity_file.h"
#include "quantize/stage_timer.h"

namespace fairway::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  std::string model, out, plan, sensitivity, save_sensitivity, save_plan, library, allocation = "optimal",
                                                                                   codebook = "mul1";
  CalibrationSource calibration;
  std::vector<std::string> ranges;  // ROLE=LOW-HIGH
  double bits = 0;
  std::int64_t size = 0;
  int head_bits = 6, max_tuples = 4, threads = 0;
  std::uint64_t seed = 1;
  bool plan_only = false, separate_inputs = false, resume = false, force = false;
};

quantize::AllocationMethod method_of(const std::string& name) {
  using quantize::AllocationMethod;
  for (const AllocationMethod method :
       {AllocationMethod::kOptimal, AllocationMethod::kUniform, AllocationMethod::kReference}) {
    if (name == quantize::allocation_method_name(method)) return method;
  }
  throw Error(ErrorKind::kUsage, fmt::format("--allocation {}: expected optimal, uniform or reference", name));
}

// "expert=2-4" and the like.
std::pair<formats::LinearRole, quantize::WidthRange> parse_range(const std::string& text) {
  using formats::LinearRole;
  constexpr LinearRole kCoded[] = {LinearRole::kAttention, LinearRole::kDenseMlp, LinearRole::kSharedExpert,
                                   LinearRole::kExpert, LinearRole::kHead};
  const auto is_width = [](char c) { return c >= '1' && c <= '0' + quantize::kMaxBits; };
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals), range = equals == std::string::npos ? "" : text.substr(equals + 1);
  std::vector<std::string> names;
  for (const LinearRole role : kCoded) {
    names.emplace_back(formats::linear_role_name(role));
    if (name != names.back()) continue;
    if (range.size() != 3 || range[1] != '-' || !is_width(range[0]) || !is_width(range[2]) || range[0] > range[2])
      break;
    return {role, {range[0] - '0', range[2] - '0'}};
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("--range {}: expected ROLE=LOW-HIGH with widths from 1 to {} and a role of {}", text,
                          quantize::kMaxBits, fmt::join(names, ", ")));
}

void check_options(const QuantizeOptions& options) {
  const int budgets = (options.bits > 0) + (options.size > 0) + !options.plan.empty();
  if (budgets != 1) throw Error(ErrorKind::kUsage, "exactly one of -b BITS, --size BYTES and --plan FILE is needed");
  if (!options.plan_only && options.out.empty()) {
    throw Error(ErrorKind::kUsage, "-o OUT is needed, unless there is --plan-only");
  }
  if (options.plan_only && !options.plan.empty()) {
    throw Error(ErrorKind::kUsage, "--plan-only makes a plan and --plan uses one; give one of them");
  }
  const bool measures = options.plan.empty() && options.sensitivity.empty();
  if ((measures || !options.plan_only) && options.calibration.empty()) {
    throw Error(ErrorKind::kUsage, "--calibration FILE is needed: a text of the kind that the model is for");
  }
  method_of(options.allocation);
  std::for_each(options.ranges.begin(), options.ranges.end(), parse_range);
}

// What every step needs.
struct Session {
  const QuantizeOptions& options;
  model::Model model;
  select::Policy policy;
  backend::ThreadPool pool;
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  std::vector<int> ids;
  quantize::CalibrationOptions windows;
  quantize::FactorOptions factor;

  explicit Session(const QuantizeOptions& o)
      : options(o),
        model(model::Model::load_source(o.model, [](int, int) { throw_if_cancelled("loading the model"); })),
        policy(select::make_policy("", "", "")),
        pool(o.threads) {
    quantize::check_source(model, o.model);
    windows.window = o.calibration.window;
    windows.cancel = &cancel_requested();
    factor.seed = o.seed;
    factor.shared_inputs = !o.separate_inputs;
    if (!o.calibration.empty()) ids = calibration_ids(o.calibration, o.model, model.config());
  }
};

quantize::ModelSensitivity sensitivity_of(Session& session) {
  const QuantizeOptions& options = session.options;
  if (!options.sensitivity.empty()) {
    return quantize::parse_sensitivity(read_file(options.sensitivity, "--sensitivity"), options.sensitivity);
  }
  Progress progress("measuring");
  quantize::SensitivityOptions measure;
  measure.calibration = session.windows;
  measure.factor = session.factor;
  measure.codebook = codebook_named(options.codebook);
  quantize::ModelSensitivity sensitivity =
      quantize::measure_sensitivity(session.model, options.model, session.ids, measure, session.policy, session.context,
                                    [&](double share, const std::string& what) { progress.update(share, what); });
  sensitivity.fixed_bytes = quantize::fixed_bytes(session.model);
  if (!options.save_sensitivity.empty()) {
    write_text_file(options.save_sensitivity, quantize::sensitivity_text(sensitivity), "--save-sensitivity");
  }
  return sensitivity;
}

quantize::BitPlan plan_of(Session& session, const quantize::ModelSensitivity& sensitivity) {
  const QuantizeOptions& options = session.options;
  quantize::AllocationOptions allocation;
  allocation.method = method_of(options.allocation);
  allocation.bits = options.bits;
  allocation.total_bytes = options.size;
  allocation.head_bits = options.head_bits;
  allocation.max_tuples = options.max_tuples;
  allocation.codebook = codebook_named(options.codebook);
  for (const std::string& range : options.ranges) allocation.ranges.insert(parse_range(range));
  return quantize::allocate(sensitivity, allocation);
}

struct Seconds {
  double total = 0, sensitivity = 0;
};

Json report_json(const QuantizeOptions& options, const quantize::JobReport& report, const Seconds& seconds) {
  const quantize::CodeSeconds& code = report.seconds;
  const Json stages = {{"sensitivity", seconds.sensitivity},
                       {"calibration", code.calibration},
                       {"factors", code.factors},
                       {"coding", code.coding},
                       {"assembly", report.assembly_seconds}};
  Json matrices = Json::object();
  for (const auto& [prefix, facts] : report.matrices) matrices[prefix] = facts;
  return {{"out", options.out},
          {"bytes", report.assembly.bytes},
          {"files", report.assembly.files},
          {"was_complete", report.assembly.was_complete},
          {"left_out", report.assembly.left_out},
          {"resumed", report.resumed},
          {"reused", report.reused},
          {"discarded", report.discarded},
          {"seconds", seconds.total},
          {"seconds_of", stages},
          {"peak_memory_bytes", peak_memory_bytes()},
          {"matrices", matrices}};
}

void print_report(const QuantizeOptions& options, const quantize::JobReport& report, double seconds) {
  if (report.assembly.was_complete) {
    print_text(fmt::format("{}: this job has finished it before, nothing was written\n", options.out));
    return;
  }
  double worst = 0, borrowed = 0, dropped = 0;
  std::string worst_name;
  for (const auto& [prefix, facts] : report.matrices) {
    if (facts["relative_error"].get<double>() > worst) {
      worst = facts["relative_error"].get<double>();
      worst_name = prefix;
    }
    borrowed += facts["borrowed_rows"].get<bool>();
    dropped += facts["dropped_rows"].get<double>();
  }
  print_text(fmt::format("{}: {} matrices, {} in {} files, {:.1f} s\n", options.out, report.matrices.size(),
                         human_bytes(static_cast<double>(report.assembly.bytes)), report.assembly.files, seconds));
  if (report.reused > 0) print_text(fmt::format("{} matrices were in {}\n", report.reused, options.library));
  print_text(fmt::format("largest relative error of outputs: {:.4f} in {}\n", worst, worst_name));
  if (borrowed > 0) print_text(fmt::format("{} matrices had few calibration rows and borrowed others\n", borrowed));
  if (dropped > 0) print_text(fmt::format("{} calibration rows were dropped: values not finite\n", dropped));
  for (const std::string& part : report.discarded) print_text(fmt::format("not usable, coded again: {}\n", part));
  for (const std::string& name : report.assembly.left_out) print_text(fmt::format("left out: {}\n", name));
}

// The plan of --plan, or one made for the budget. Nothing if there is --plan-only: then it has been printed.
std::optional<quantize::BitPlan> make_plan(Session& session, bool json, double& sensitivity_seconds) {
  const QuantizeOptions& options = session.options;
  if (!options.plan.empty()) {
    const std::vector<std::string> prefixes = quantize::coded_prefixes(session.model);
    return quantize::parse_bit_plan(read_file(options.plan, "--plan"), options.plan, prefixes);
  }
  const quantize::ModelSensitivity sensitivity =
      quantize::timed(sensitivity_seconds, [&] { return sensitivity_of(session); });
  quantize::BitPlan plan = plan_of(session, sensitivity);
  if (!json) print_text(quantize::plan_table(plan, sensitivity));
  if (!options.save_plan.empty()) write_text_file(options.save_plan, quantize::bit_plan_text(plan), "--save-plan");
  if (!options.plan_only) return plan;
  if (json) print_json(quantize::plan_json(plan, &sensitivity));
  return std::nullopt;
}

quantize::JobOptions job_of(const Session& session) {
  const QuantizeOptions& options = session.options;
  quantize::JobOptions job;
  job.model = options.model;
  job.out = options.out;
  job.library = options.library;
  job.ids = session.ids;
  job.calibration = options.calibration.name();
  job.windows = session.windows;
  job.factor = session.factor;
  job.codebook = codebook_named(options.codebook);
  job.version = kVersion;
  job.revision = source_revision();
  job.force = options.force;
  return job;
}

int quantize_model(const QuantizeOptions& options, bool json) {
  // Matrices and moments go back to the system when they are freed. Left alone, glibc keeps ever larger ones.
  constexpr int kReturnedBytes = 256 << 10;
  mallopt(M_MMAP_THRESHOLD, kReturnedBytes);
  check_options(options);
  Seconds seconds;
  std::optional<quantize::StageTimer> whole(std::in_place, seconds.total);
  const fs::path work = quantize::work_folder(options.out);
  if (!options.plan_only && fs::exists(work) && !options.resume && !options.force) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} has an unfinished job; --resume goes on with it, --force begins anew", work.string()));
  }
  Session session(options);
  const std::optional<quantize::BitPlan> plan = make_plan(session, json, seconds.sensitivity);
  if (!plan) return kExitOk;
  Progress progress("quantizing");
  const quantize::JobReport report =
      quantize::run_job(session.model, job_of(session), *plan, session.policy, session.context,
                        [&](double share, const std::string& what) { progress.update(share, what); });
  progress.clear();
  whole.reset();
  if (json) {
    print_json(report_json(options, report, seconds));
  } else {
    print_report(options, report, seconds.total);
  }
  return kExitOk;
}

}  // namespace

void add_quantize_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = add_command(app, call, "quantize", "Make an EXL3 checkpoint with a width for every matrix",
                                  "fairway quantize glm-4.7-flash -b 2.5 -o glm-2.5 --calibration book.txt");
  command->add_option("model", options->model, "Source model directory: bf16, f16, f32 or fp8")->required();
  command->add_option("-o,--out", options->out, "Directory to make")->type_name("DIR");
  command->add_option("-b,--bits", options->bits, "Mean bits per weight of all matrices but the head")
      ->check(number_in(1, 8));
  command->add_option("--size", options->size, "Instead of --bits: bytes of all weights")->check(number_in(1, 1e15));
  command->add_option("--plan", options->plan, "Instead of both: widths from this file")->type_name("FILE");
  add_calibration_options(*command, options->calibration);
  command->add_option("--allocation", options->allocation, "optimal, uniform or reference")->capture_default_str();
  command->add_option("--head-bits", options->head_bits, "Width of the head; 0: as the budget puts it")
      ->check(number_in(0, 8))
      ->capture_default_str();
  command->add_option("--max-tuples", options->max_tuples, "Distinct width triples per layer's experts; 0: any")
      ->check(number_in(0, kNoLimit))
      ->capture_default_str();
  command->add_option("--range", options->ranges, "Least and most width of a role; may be given for several roles")
      ->type_name("ROLE=LOW-HIGH");
  command->add_option("--codebook", options->codebook, "mul1, mcg or 3inst")
      ->check(CLI::IsMember({"mul1", "mcg", "3inst"}))
      ->capture_default_str();
  command->add_flag("--plan-only", options->plan_only, "Print the widths and stop");
  command->add_option("--save-plan", options->save_plan, "Write the widths here, for --plan")->type_name("FILE");
  command->add_option("--save-sensitivity", options->save_sensitivity, "Write the measured sensitivities here")
      ->type_name("FILE");
  command->add_option("--sensitivity", options->sensitivity, "Use these instead of measuring")->type_name("FILE");
  command
      ->add_option("--library", options->library,
                   "Coded matrices of this source: take those that are there, keep new ones")
      ->type_name("DIR");
  command->add_flag("--separate-inputs", options->separate_inputs,
                    "Input scales for every expert instead of one for all of a layer");
  command->add_option("--seed", options->seed, "Of the random signs")->capture_default_str();
  command->add_flag("--resume", options->resume, "Go on with an unfinished job of the same options");
  command->add_flag("--force", options->force, "Discard an unfinished job; replace OUT");
  add_threads_option(*command, options->threads);
  command->callback(
      [options, &call] { call.action = [options, &call] { return quantize_model(*options, call.json); }; });
}

}  // namespace fairway::cli
