// fairway kernels: the machine, every kernel row, whether it can run here, the aliases, and the known families that
// have neither.
#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "backend/cpu/features.h"
#include "cli/cli.h"
#include "cli/cuda_facts.h"
#include "cli/kernel_facts.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/report.h"
#include "kernels/common/cuda_rows.h"
#include "kernels/common/registry.h"

namespace fairway::cli {
namespace {

using kernels::KernelRow;

const char* weights_name(kernels::WeightKind kind) {
  switch (kind) {
    case kernels::WeightKind::kNone:
      return "none";
    case kernels::WeightKind::kDense:
      return "dense";
    case kernels::WeightKind::kTrellis:
      return "trellis";
  }
  return "unknown";
}

std::string bits_text(const KernelRow& row) {
  if (row.weights != kernels::WeightKind::kTrellis) return "-";
  if (row.bits == kernels::BitTuple{}) return "any";
  return fmt::format("{},{},{}", row.bits.gate, row.bits.up, row.bits.down);
}

std::string m_text(const KernelRow& row) {
  if (row.use == kernels::RowUse::kByCall) return "mixed";
  if (row.use == kernels::RowUse::kOnRequest) return "forced";
  if (row.m_max >= 1 << 30) return fmt::format("{}+", row.m_min);
  return row.m_min == row.m_max ? fmt::format("{}", row.m_min) : fmt::format("{}-{}", row.m_min, row.m_max);
}

Json row_json(const KernelRow& row, std::uint32_t features) {
  const std::uint32_t lacking = row.requires_features & ~features;
  return {{"id", row.id},
          {"op", row.op},
          {"family", row.family},
          {"backend", kernels::backend_name(row.backend)},
          {"weights", weights_name(row.weights)},
          {"activations", kernels::activations_name(row.activations)},
          {"numerics", kernels::numerics_name(row.numerics)},
          {"codes", kernels::codes_name(row.codes)},
          {"codebooks", codebook_names(row.codebooks)},
          {"bits", bits_text(row)},
          {"use", kernels::use_name(row.use)},
          {"m_min", row.m_min},
          {"m_max", row.m_max},
          {"tile_m", row.tile.m},
          {"tile_n", row.tile.n},
          {"simdgroups", row.tile.workers},
          {"source", row.source},
          {"requires", backend::cpu_feature_names(row.requires_features)},
          {"can_run", kernels::can_run(row, features)},
          {"lacking", backend::cpu_feature_names(lacking)}};
}

Json cuda_row_json(const kernels::CudaRow& row, const std::string& absence) {
  return {{"id", row.id},
          {"op", row.op},
          {"family", row.family},
          {"backend", kernels::kCudaBackend},
          {"path", row.path},
          {"weights", weights_name(row.weights)},
          {"activations", kernels::cuda_activations_name(row.activations)},
          {"numerics", kernels::numerics_name(row.numerics)},
          {"codebooks", codebook_names(row.codebooks)},
          {"tile_rows", row.tile_rows},
          {"source", row.source},
          {"can_run", absence.empty()},
          {"lacking", absence}};
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text.empty() ? "-" : text;
}

constexpr const char* kLineFormat = "{:<{}} {:<14} {:<7} {:<4} {:<5} {:<10} {:<14} {:<5} {:<7} {:<9} {}\n";

std::string row_line(const KernelRow& row, std::uint32_t features, std::size_t id_width) {
  const std::uint32_t lacking = row.requires_features & ~features;
  const std::string runs = lacking == 0 ? "yes" : "no: needs " + backend::cpu_feature_names(lacking);
  return fmt::format(fmt::runtime(kLineFormat), row.id, id_width, row.op, weights_name(row.weights),
                     kernels::activations_name(row.activations), kernels::codes_name(row.codes),
                     kernels::numerics_name(row.numerics), joined(codebook_names(row.codebooks)), bits_text(row),
                     m_text(row), tile_text(row.tile), runs);
}

constexpr const char* kCudaLineFormat = "{:<{}} {:<14} {:<7} {:<5} {:<8} {:<14} {:<5} {}\n";

// absence: of all rows.
std::string cuda_runs_text(const kernels::CudaRow& row, const std::string& absence) {
  if (!absence.empty()) return "no";
  const std::string reason = kernels::cuda_row_absence_reason(row);
  return reason.empty() ? "yes" : "no: " + reason;
}

// The CUDA kernels, whose rows have other columns.
std::string cuda_table() {
  const std::string absence = kernels::cuda_rows_absence_reason();
  std::size_t id_width = 2;
  for (const kernels::CudaRow& row : kernels::cuda_rows())
    id_width = std::max(id_width, std::string_view(row.id).size());
  std::string text = "\nCUDA kernels, for compute capability 8.0 and later";
  text += absence.empty() ? ":\n" : fmt::format("; none runs here: {}\n", absence);
  text += fmt::format(fmt::runtime(kCudaLineFormat), "id", id_width, "op", "weights", "act", "numerics", "codebooks",
                      "tile", "runs here");
  for (const kernels::CudaRow& row : kernels::cuda_rows()) {
    text += fmt::format(fmt::runtime(kCudaLineFormat), row.id, id_width, row.op, weights_name(row.weights),
                        kernels::cuda_activations_name(row.activations), kernels::numerics_name(row.numerics),
                        joined(codebook_names(row.codebooks)), row.tile_rows == 0 ? "-" : std::to_string(row.tile_rows),
                        cuda_runs_text(row, absence));
  }
  return text;
}

std::string table(std::uint32_t features) {
  std::size_t id_width = 2;
  for (const KernelRow* row : kernels::all_kernel_rows())
    id_width = std::max(id_width, std::string_view(row->id).size());
  std::string text = fmt::format("{}\nfeatures: {}\n", backend::cpu_info().name, backend::cpu_feature_names(features));
  text += cuda_text() + "\n";
  text += fmt::format(fmt::runtime(kLineFormat), "id", id_width, "op", "weights", "act", "codes", "numerics",
                      "codebooks", "bits", "tokens", "tile", "runs here");
  for (const KernelRow* row : kernels::all_kernel_rows()) text += row_line(*row, features, id_width);
  text += cuda_table();
  text += "\naliases:\n";
  for (const kernels::KernelAlias& alias : kernels::kernel_aliases()) {
    text += fmt::format("  {} = {}: {}\n", alias.name, alias.target_family, alias.reason);
  }
  text += "\nknown families without a row:";
  const std::vector<std::string_view> missing = kernels::missing_families();
  for (const std::string_view family : missing) text += fmt::format("\n  {}", family);
  return text + (missing.empty() ? " none\n" : "\n");
}

int list_kernels(bool json) {
  const std::uint32_t features = backend::cpu_info().features;
  if (!json) {
    print_text(table(features));
    return kExitOk;
  }
  Json rows = Json::array();
  for (const KernelRow* row : kernels::all_kernel_rows()) rows.push_back(row_json(*row, features));
  Json cuda_rows = Json::array();
  const std::string absence = kernels::cuda_rows_absence_reason();
  for (const kernels::CudaRow& row : kernels::cuda_rows()) {
    cuda_rows.push_back(cuda_row_json(row, absence.empty() ? kernels::cuda_row_absence_reason(row) : absence));
  }
  Json aliases = Json::array();
  for (const kernels::KernelAlias& alias : kernels::kernel_aliases()) {
    aliases.push_back({{"name", alias.name}, {"family", alias.target_family}, {"reason", alias.reason}});
  }
  Json machine = machine_json();
  machine["cuda"] = cuda_json();
  print_json({{"machine", machine},
              {"rows", rows},
              {"cuda_rows", cuda_rows},
              {"aliases", aliases},
              {"missing", kernels::missing_families()}});
  return kExitOk;
}

}  // namespace

void add_kernels_command(CLI::App& app, Invocation& call) {
  CLI::App* command =
      add_command(app, call, "kernels", "List every kernel row, which can run here, and which known names are missing",
                  "fairway kernels --json");
  command->callback([&call] { call.action = [&call] { return list_kernels(call.json); }; });
}

}  // namespace fairway::cli
