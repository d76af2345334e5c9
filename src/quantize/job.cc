// The fingerprint has everything that changes a byte of the result and nothing else.
#include "quantize/job.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/mapped_file.h"
#include "formats/sha256.h"
#include "quantize/destination.h"
#include "quantize/manifest.h"
#include "quantize/part_library.h"
#include "quantize/part_store.h"
#include "quantize/stage_timer.h"

namespace fairway::quantize {
namespace {

using nlohmann::ordered_json;

std::string digest(std::span<const int> ids) {
  formats::Sha256 sha;
  sha.add(std::span(reinterpret_cast<const std::uint8_t*>(ids.data()), ids.size_bytes()));
  return formats::hex(sha.finish());
}

ordered_json options_json(const JobOptions& options) {
  return {{"codebook", codec::codebook_name(options.codebook)},
          {"calibration", options.calibration},
          {"calibration_tokens", options.ids.size()},
          {"window", options.windows.window},
          {"min_rows", options.windows.min_rows},
          {"seed", options.factor.seed},
          {"damping", options.factor.damping},
          {"shared_inputs", options.factor.shared_inputs},
          {"scale_exponents", {options.factor.exponents.weights, options.factor.exponents.inputs}}};
}

// Without the widths.
ordered_json source_fingerprint(const model::Model& model, const JobOptions& options) {
  ordered_json files = ordered_json::object();
  std::map<std::filesystem::path, bool> seen;
  for (const formats::TensorView* tensor : model.checkpoint().tensors()) {
    const std::filesystem::path file = model.checkpoint().file_of(*tensor);
    if (!seen.try_emplace(file, true).second) continue;
    files[file.filename().string()] = formats::digest_file(file, options.windows.cancel).sha256;
  }
  files["config.json"] = formats::digest_file(options.model / "config.json").sha256;
  return {{"program", options.version},
          {"files", files},
          {"options", options_json(options)},
          {"calibration_sha256", digest(options.ids)}};
}

ordered_json with_widths(ordered_json fingerprint, const BitPlan& plan) {
  ordered_json& widths = fingerprint["widths"] = ordered_json::object();
  for (const PlannedLinear& linear : plan.linears) widths[linear.prefix] = linear.bits;
  return fingerprint;
}

CheckpointFacts facts_of(const JobOptions& options, const BitPlan& plan, const PartStore& parts) {
  CheckpointFacts facts;
  double bits = 0, weights = 0;
  for (const PlannedLinear& linear : plan.linears) {
    if (linear.prefix == "lm_head") {
      facts.head_bits = linear.bits;
      continue;
    }
    const PartShape shape = parts.shape(linear.prefix);
    const double size = static_cast<double>(shape.in) * shape.out;
    bits += size * linear.bits;
    weights += size;
  }
  facts.bits = weights > 0 ? bits / weights : 0;
  facts.calibration_cols = options.windows.window;
  facts.calibration_rows =
      static_cast<int>((options.ids.size() + static_cast<std::size_t>(options.windows.window) - 1) /
                       static_cast<std::size_t>(options.windows.window));
  facts.codebook = options.codebook;
  facts.version = options.version;
  facts.revision = options.revision;
  facts.options = options_json(options);
  facts.options["allocation"] = plan.method;
  return facts;
}

// A run that was killed after its last rename has left a finished directory, and parts that nobody needs any more.
// Without a manifest there is none, and the source need not be read to know it.
std::optional<JobReport> finish_complete(const model::Model& model, const JobOptions& options, const BitPlan& plan) {
  if (options.force || !formats::is_present(options.out / kManifestName)) return std::nullopt;
  const ordered_json identity = with_widths(source_fingerprint(model, options), plan);
  std::optional<AssemblyReport> complete = find_complete(options.out, PartStore::job_of(identity));
  if (!complete) return std::nullopt;
  const std::filesystem::path work = work_folder(options.out);
  if (std::filesystem::exists(work)) PartStore(work, identity, /*force=*/false).remove_all();
  JobReport report;
  report.assembly = *std::move(complete);
  return report;
}

std::optional<PartLibrary> open_library(const JobOptions& options, const ordered_json& source,
                                        const std::map<std::string, int>& widths) {
  if (options.library.empty()) return std::nullopt;
  std::set<int> used;
  for (const auto& [prefix, bits] : widths) used.insert(bits);
  return std::optional<PartLibrary>(std::in_place, options.library, source, used);
}

// How many matrices the job need not code.
std::size_t take_from(const PartLibrary& library, const std::map<std::string, int>& widths, PartStore& parts) {
  std::size_t taken = 0;
  for (const auto& [prefix, bits] : widths) {
    if (parts.has(prefix) || !library.has(prefix, bits)) continue;
    library.copy_to(parts, prefix, bits);
    ++taken;
  }
  return taken;
}

}  // namespace

void check_source(const model::Model& model, const std::filesystem::path& model_dir) {
  for (const std::string& prefix : coded_prefixes(model)) {
    if (!model.checkpoint().has_trellis(prefix)) continue;
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: \"{}\" is trellis-coded already; quantize the plain checkpoint it was made from",
                            model_dir.string(), prefix));
  }
  read_source_config(model_dir);  // asked for again by the assembly, when it would be too late to complain
}

std::vector<std::string> coded_prefixes(const model::Model& model) {
  std::vector<std::string> prefixes;
  for (const formats::LinearSpec& spec : formats::expected_linears(model.config())) {
    const bool tied =
        spec.role == formats::LinearRole::kHead && formats::uses_tied_head(model.config(), model.checkpoint());
    if (!spec.dense_only && !tied) prefixes.push_back(spec.prefix);
  }
  return prefixes;
}

std::int64_t fixed_bytes(const model::Model& model) {
  std::int64_t total = 0;
  for (const formats::LinearSpec& spec : formats::expected_linears(model.config())) {
    if (spec.dense_only) total += std::int64_t{2} * spec.in * spec.out;
  }
  for (const formats::VectorSpec& spec : formats::expected_vectors(model.config()))
    total += std::int64_t{2} * spec.count;
  return total;
}

std::filesystem::path work_folder(const std::filesystem::path& out) {
  std::filesystem::path folder = out.has_filename() ? out : out.parent_path();
  folder += ".partial";
  return folder;
}

JobReport run_job(const model::Model& model, const JobOptions& options, const BitPlan& plan,
                  const select::Policy& policy, kernels::KernelContext& context,
                  const std::function<void(double, const std::string&)>& progress) {
  constexpr double kCodingShare = 0.97;
  const std::filesystem::path work = work_folder(options.out);
  if (std::optional<JobReport> complete = finish_complete(model, options, plan)) return *std::move(complete);
  check_destination(options.model, work, options.out, options.force);
  const ordered_json source = source_fingerprint(model, options);
  PartStore parts(work, with_widths(source, plan), options.force);
  JobReport report;
  report.resumed = parts.size();
  report.discarded = parts.discarded();
  std::map<std::string, int> widths;
  for (const PlannedLinear& linear : plan.linears) widths[linear.prefix] = linear.bits;
  std::optional<PartLibrary> library = open_library(options, source, widths);
  if (library) report.reused = take_from(*library, widths, parts);

  CodeSink sink;
  sink.width = [&](const std::string& prefix) { return widths.at(prefix); };
  sink.is_done = [&](const std::string& prefix) { return parts.has(prefix); };
  sink.done = [&](const CodedLinear& coded, const MatrixReport& matrix) {
    const ordered_json facts = {{"bits", coded.linear.bits},
                                {"relative_error", matrix.facts.relative},
                                {"calibration_rows", matrix.rows},
                                {"borrowed_rows", matrix.borrowed},
                                {"dropped_rows", matrix.dropped}};
    if (library) library->put(coded.linear, facts);
    parts.put(coded.linear, facts);
  };
  if (progress) sink.progress = [&](double share, const std::string& what) { progress(kCodingShare * share, what); };
  const std::vector<std::string> prefixes = coded_prefixes(model);
  report.seconds = code_model(model, options.model.string(), options.ids,
                              {prefixes, options.windows, options.factor, options.codebook}, sink, policy, context);

  for (const std::string& prefix : prefixes) report.matrices.emplace_back(prefix, parts.facts(prefix));
  report.assembly = timed(report.assembly_seconds, [&] {
    return assemble(
        options.model, parts, prefixes, facts_of(options, plan, parts), options.out, options.force,
        [&](double share, const std::string& what) {
          if (progress) progress(kCodingShare + (1 - kCodingShare) * share, what);
        },
        options.windows.cancel);
  });
  parts.remove_all();
  return report;
}

}  // namespace fairway::quantize
