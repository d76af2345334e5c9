// fairway verify: every row of the trellis and expert ops, of the CPU or of a CUDA device, against the scalar
// reference, on random problems.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <type_traits>

#include "backend/cpu/features.h"
#include "backend/cuda/device.h"
#include "cli/cli.h"
#include "cli/kernel_facts.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "kernels/verify/device_check.h"
#include "kernels/verify/row_checker.h"

namespace fairway::cli {
namespace {

using kernels::KernelRow;
using verify::RowReport;

struct VerifyOptions {
  std::string kernel;
  DeviceOptions device;
  verify::CheckOptions check;
};

// Rows that were asked for, and of these the ones that lack a processor feature.
struct Rows {
  verify::CheckedRows here;
  std::vector<const KernelRow*> not_here;
};

Rows find_rows(const std::string& kernel) {
  const kernels::KernelAlias* alias = kernels::find_alias(kernel);
  const std::string name = alias == nullptr ? kernel : alias->target_family;
  const std::uint32_t features = backend::cpu_info().features;
  Rows rows;
  const auto collect = [&](const auto& all, auto& list) {
    for (const auto& row : all) {
      if (!name.empty() && name != row.info.id && name != row.info.family) continue;
      if (kernels::can_run(row.info, features)) {
        list.push_back(&row);
      } else {
        rows.not_here.push_back(&row.info);
      }
    }
  };
  collect(kernels::moe_swiglu_rows(), rows.here.experts);
  collect(kernels::trellis_linear_rows(), rows.here.linears);
  if (!rows.here.experts.empty() || !rows.here.linears.empty()) return rows;
  if (!rows.not_here.empty()) {
    throw Error(ErrorKind::kUsage,
                fmt::format("--kernel {}: this processor lacks {}", kernel,
                            backend::cpu_feature_names(rows.not_here.front()->requires_features & ~features)));
  }
  throw Error(ErrorKind::kUsage, fmt::format("--kernel {}: no row of moe_swiglu or trellis_linear has this id, family "
                                             "or alias; `fairway kernels` lists them",
                                             kernel));
}

struct CudaRows {
  std::vector<const kernels::CudaRow*> here;
  Json lacking = Json::array();
};

CudaRows find_cuda_rows(const std::string& kernel, int device) {
  const kernels::KernelAlias* alias = kernels::find_alias(kernel);
  const std::string name = alias == nullptr ? kernel : alias->target_family;
  std::vector<const kernels::CudaRow*> rows = verify::checkable_cuda_rows();
  std::erase_if(rows,
                [&](const kernels::CudaRow* row) { return !name.empty() && name != row->id && name != row->family; });
  CudaRows found;
  std::string refusal;
  for (const kernels::CudaRow* row : rows) {
    refusal = kernels::cuda_row_refusal(*row, device);
    if (refusal.empty()) {
      found.here.push_back(row);
    } else {
      found.lacking.push_back({{"id", row->id}, {"lacking", refusal}});
    }
  }
  if (!found.here.empty()) return found;
  if (!rows.empty()) throw Error(ErrorKind::kUnsupported, fmt::format("{}: {}", rows.front()->id, refusal));
  throw Error(ErrorKind::kUsage, fmt::format("--kernel {}: no CUDA row of moe_swiglu or trellis_linear has this id, "
                                             "family or alias; `fairway kernels` lists them",
                                             kernel));
}

std::string error_text(const verify::DeviceRowReport& report) {
  return fmt::format("worst row {:.3g} of its norm, bound {:.3g}", report.worst_error, report.bound);
}
std::string error_text(const RowReport& report) {
  if (report.row->backend == kernels::Backend::kCpuRef) return "the reference itself: the same bits again";
  return fmt::format("worst row {:.3g} of its norm, bound {:.3g}", report.worst_error, report.bound);
}

std::string tokens_text(const RowReport& report) {
  return fmt::format("0 to {} tokens, {} tile{}", report.most_tokens, report.tiles, report.tiles == 1 ? "" : "s");
}
std::string tokens_text(const verify::DeviceRowReport& report) {
  return fmt::format("1 to {} tokens", report.most_tokens);
}

template <class Report>
std::string report_line(const Report& report, std::size_t id_width) {
  const auto& row = *report.row;
  const std::string weights = row.weights == kernels::WeightKind::kTrellis
                                  ? fmt::format("bits {} of {}", fmt::join(report.widths, ","),
                                                fmt::join(codebook_names(report.codebooks), "+"))
                                  : "plain weights";
  return fmt::format("{:<4} {:<{}} {:>4} calls, {}, {}; {}\n", report.mismatch.empty() ? "ok" : "FAIL", row.id,
                     id_width, report.calls, weights, tokens_text(report),
                     report.mismatch.empty() ? error_text(report) : report.mismatch);
}

template <class Report>
Json report_json(const Report& report) {
  return {{"id", report.row->id},
          {"op", report.row->op},
          {"ok", report.mismatch.empty()},
          {"calls", report.calls},
          {"bits", report.widths},
          {"codebooks", codebook_names(report.codebooks)},
          {"most_tokens", report.most_tokens},
          {"worst_error", report.worst_error},
          {"bound", report.bound},
          {"mismatch", report.mismatch}};
}

Json lacking_json(const Rows& rows) {
  Json lacking = Json::array();
  for (const KernelRow* row : rows.not_here) {
    const std::uint32_t missing = row->requires_features & ~backend::cpu_info().features;
    lacking.push_back({{"id", row->id}, {"lacking", backend::cpu_feature_names(missing)}});
  }
  return lacking;
}

template <class Report>
Json summary_json(const VerifyOptions& options, const std::vector<Report>& reports, const Json& lacking, bool stopped) {
  Json all = Json::array();
  int failed = 0;
  for (const Report& report : reports) {
    all.push_back(report_json(report));
    if constexpr (std::is_same_v<Report, RowReport>) all.back()["tiles"] = report.tiles;
    failed += !report.mismatch.empty();
  }
  return {{"seed", options.check.seed},
          {"rounds", options.check.rounds},
          {"passed", static_cast<int>(reports.size()) - failed},
          {"failed", failed},
          {"stop", stopped ? "cancelled" : "complete"},
          {"rows", all},
          {"not_run", lacking}};
}

// `run` makes the reports from the options of a check.
template <class Run>
int verify_with(const VerifyOptions& options, const Json& lacking, bool json, Run run) {
  Progress progress("verify");
  verify::CheckOptions check = options.check;
  check.cancel = &cancel_requested();
  check.progress = [&](double share) { progress.update(share); };
  const auto reports = run(check);
  progress.clear();
  const bool stopped = cancel_requested();
  const Json summary = summary_json(options, reports, lacking, stopped);
  if (json) {
    print_json(summary);
  } else {
    std::size_t id_width = 0;
    for (const auto& report : reports) id_width = std::max(id_width, std::string_view(report.row->id).size());
    for (const auto& report : reports) print_text(report_line(report, id_width));
    print_text(fmt::format("{} rows agree with the reference, {} do not; {} not run here (seed {}, {} rounds)\n",
                           summary["passed"].get<int>(), summary["failed"].get<int>(), lacking.size(),
                           options.check.seed, options.check.rounds));
  }
  if (stopped) fmt::print(stderr, "fairway: interrupted before all rounds were done\n");
  if (summary["failed"] > 0) return kExitInternal;
  return stopped ? kExitInterrupted : kExitOk;
}

int verify_rows(const VerifyOptions& options, bool json) {
  if (const auto device = device_model_options(options.device)) {
    backend::require_cuda_device(device->device);
    const CudaRows rows = find_cuda_rows(options.kernel, device->device);
    return verify_with(options, rows.lacking, json, [&](const verify::CheckOptions& check) {
      return verify::check_cuda_rows(rows.here, device->device, check);
    });
  }
  const Rows rows = find_rows(options.kernel);
  return verify_with(options, lacking_json(rows), json,
                     [&](const verify::CheckOptions& check) { return verify::check_rows(rows.here, check); });
}

}  // namespace

void add_verify_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<VerifyOptions>();
  CLI::App* command = add_command(app, call, "verify",
                                  "Compare every kernel row of the experts and of trellis linears with the reference",
                                  "fairway verify --kernel moe_trellis_swiglu_grouped --rounds 2");
  command->add_option("--kernel", options->kernel, "Only this row, family or alias (see `fairway kernels`)")
      ->type_name("NAME");
  command
      ->add_option("--device", options->device.device,
                   "Whose rows: cpu, or cuda or cuda:N for those of the CUDA kernels, on that device")
      ->type_name("DEVICE")
      ->capture_default_str();
  command
      ->add_option("--rounds", options->check.rounds,
                   "Rounds; each has all widths, every codebook, and 0, 1 and more tokens per expert")
      ->check(number_in(1, 10000))
      ->capture_default_str();
  command->add_option("--seed", options->check.seed, "Same seed, same problems")
      ->check(number_in(0, 4294967295.0))
      ->capture_default_str();
  command->callback([options, &call] { call.action = [options, &call] { return verify_rows(*options, call.json); }; });
}

}  // namespace fairway::cli
