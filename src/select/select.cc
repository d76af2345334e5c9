// Legality and preference of kernel rows: pure functions of the policy, the shape and the registry.
#include "select/select.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <vector>

#include "fairway/error.h"

namespace fairway::select {
namespace {

using kernels::Activations;
using kernels::Backend;
using kernels::KernelRow;
using kernels::WeightKind;

bool machine_and_wish_allow(const Policy& policy, const KernelRow& row) {
  return kernels::can_run(row, policy.features) && (!policy.backend || row.backend == *policy.backend);
}

bool serves_codes(const KernelRow& row, const TrellisShape& shape) {
  const bool any_bits = row.bits == kernels::BitTuple{};
  return row.weights == WeightKind::kTrellis && (shape.codebooks & ~row.codebooks) == 0 &&
         (any_bits || row.bits == shape.bits);
}

std::string describe(const TrellisShape& shape) {
  std::vector<std::string_view> books;
  for (const auto& [book, name] : {std::pair{codec::Codebook::k3inst, "3inst"}, std::pair{codec::Codebook::kMcg, "mcg"},
                                   std::pair{codec::Codebook::kMul1, "mul1"}}) {
    if (shape.codebooks & kernels::codebook_bit(book)) books.push_back(name);
  }
  return fmt::format("M = {}, bits ({}, {}, {}), codebook {}", shape.m, shape.bits.gate, shape.bits.up, shape.bits.down,
                     fmt::join(books, "+"));
}

std::string describe(const Policy& policy) {
  const char* activations = policy.activations == ActivationMode::kAuto   ? "auto"
                            : policy.activations == ActivationMode::kInt8 ? "int8"
                                                                          : "fp32";
  return fmt::format("backend {}, activations {}", policy.backend ? kernels::backend_name(*policy.backend) : "(any)",
                     activations);
}

// The row of the best backend among those that `accept` takes; nullptr if there is none.
template <class Row, class Accept>
const Row* best_row(std::span<const Row> rows, const Accept& accept) {
  const Row* best = nullptr;
  for (const Row& row : rows) {
    if (accept(row.info) && (best == nullptr || row.info.backend > best->info.backend)) best = &row;
  }
  return best;
}

template <class Row>
Choice<Row> select_trellis(const Policy& policy, const TrellisShape& shape, std::span<const Row> rows, const char* op) {
  const auto find = [&](Activations activations, bool any_codebook) {
    return best_row(rows, [&](const KernelRow& row) {
      return row.activations == activations && row.weights == WeightKind::kTrellis &&
             machine_and_wish_allow(policy, row) && (any_codebook || serves_codes(row, shape)) &&
             shape.m >= row.m_min && shape.m <= row.m_max;
    });
  };
  if (policy.activations != ActivationMode::kFp32) {
    if (const Row* row = find(Activations::kInt8, false)) return {row, Fallback::kNone};
  }
  const Row* row = policy.activations == ActivationMode::kInt8 ? nullptr : find(Activations::kFp32, false);
  if (row == nullptr) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: no kernel row serves {} under {}", op, describe(shape), describe(policy)));
  }
  if (row->info.backend == Backend::kCpuRef && !policy.backend) return {row, Fallback::kNoVectorRow};
  const bool int8_exists = policy.activations == ActivationMode::kAuto && find(Activations::kInt8, true) != nullptr;
  return {row, int8_exists ? Fallback::kNoInt8ForCodebook : Fallback::kNone};
}

bool activations_allow(ActivationMode mode, Activations activations) {
  return mode == ActivationMode::kAuto ||
         (mode == ActivationMode::kInt8 ? activations == Activations::kInt8 : activations == Activations::kFp32);
}

bool is_named(const KernelRow& row, std::string_view name) {
  return name == row.id || name == row.family;
}

Choice<kernels::MoeSwigluRow> forced_moe_swiglu(const Policy& policy, const TrellisShape& shape) {
  const auto* row = best_row(kernels::moe_swiglu_rows(), [&](const KernelRow& info) {
    return is_named(info, policy.kernel) && machine_and_wish_allow(policy, info) && serves_codes(info, shape) &&
           activations_allow(policy.activations, info.activations);
  });
  if (row == nullptr) {
    throw Error(ErrorKind::kUsage, fmt::format("kernel '{}' cannot serve an expert with {} under {}", policy.kernel,
                                               describe(shape), describe(policy)));
  }
  return {row, Fallback::kNone};
}

template <class Row>
const Row* select_plain(const Policy& policy, std::span<const Row> rows, const char* op, WeightKind weights) {
  const Row* row = best_row(
      rows, [&](const KernelRow& info) { return info.weights == weights && machine_and_wish_allow(policy, info); });
  if (row == nullptr) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: no kernel row under {}", op, describe(policy)));
  }
  return row;
}

Backend parse_backend(const std::string& name, std::uint32_t features) {
  std::vector<std::string_view> usable;
  bool exists = false;
  for (const Backend backend : {Backend::kCpuRef, Backend::kCpuAvx2, Backend::kCpuAvx512}) {
    // A backend runs here if every one of its rows does: its ops are used together.
    bool runs = true;
    for (const KernelRow* row : kernels::all_kernel_rows()) {
      if (row->backend == backend && !kernels::can_run(*row, features)) runs = false;
    }
    if (name == kernels::backend_name(backend)) {
      exists = true;
      if (runs) return backend;
    }
    if (runs) usable.push_back(kernels::backend_name(backend));
  }
  throw Error(ErrorKind::kUsage,
              fmt::format("backend '{}' {}; usable here: {}", name,
                          exists ? "cannot run on this CPU (features: " + backend::cpu_feature_names(features) + ")"
                                 : "does not exist",
                          fmt::join(usable, ", ")));
}

ActivationMode parse_activations(const std::string& name) {
  if (name.empty() || name == "auto") return ActivationMode::kAuto;
  if (name == "int8") return ActivationMode::kInt8;
  if (name == "fp32") return ActivationMode::kFp32;
  throw Error(ErrorKind::kUsage, fmt::format("activations '{}' do not exist; use auto, int8 or fp32", name));
}

void check_forced_kernel(const Policy& policy) {
  std::vector<std::string_view> usable;
  bool exists = false;
  for (const auto& row : kernels::moe_swiglu_rows()) {
    if (row.info.weights != WeightKind::kTrellis) continue;
    const bool here =
        machine_and_wish_allow(policy, row.info) && activations_allow(policy.activations, row.info.activations);
    if (here) usable.push_back(row.info.id);
    if (!is_named(row.info, policy.kernel)) continue;
    exists = true;
    if (here) return;
  }
  bool known = false;
  for (const std::string_view family : kernels::known_families()) known = known || family == policy.kernel;
  throw Error(ErrorKind::kUsage, fmt::format("kernel '{}' {}; usable here: {}", policy.kernel,
                                             exists  ? "cannot run under " + describe(policy)
                                             : known ? "is a known family that no row implements yet"
                                                     : "does not exist",
                                             fmt::join(usable, ", ")));
}

}  // namespace

Policy make_policy(const std::string& backend, const std::string& activations, const std::string& kernel) {
  Policy policy;
  policy.features = backend::cpu_info().features;
  policy.activations = parse_activations(activations);
  if (!backend.empty()) policy.backend = parse_backend(backend, policy.features);
  policy.kernel = kernel;
  if (!kernel.empty()) check_forced_kernel(policy);
  return policy;
}

const char* fallback_name(Fallback reason) {
  switch (reason) {
    case Fallback::kNone:
      return "none";
    case Fallback::kNoInt8ForCodebook:
      return "no_int8_for_codebook";
    case Fallback::kNoVectorRow:
      return "no_vector_row";
  }
  return "unknown";
}

Choice<kernels::MoeSwigluRow> select_moe_swiglu(const Policy& policy, const TrellisShape& shape) {
  if (!policy.kernel.empty()) return forced_moe_swiglu(policy, shape);
  return select_trellis(policy, shape, kernels::moe_swiglu_rows(), "moe_swiglu");
}

Choice<kernels::TrellisLinearRow> select_trellis_linear(const Policy& policy, const TrellisShape& shape) {
  return select_trellis(policy, shape, kernels::trellis_linear_rows(), "trellis_linear");
}

const kernels::MoeSwigluRow* select_moe_dense(const Policy& policy, int) {
  return select_plain(policy, kernels::moe_swiglu_rows(), "moe_swiglu", WeightKind::kDense);
}

const kernels::DenseLinearRow* select_dense_linear(const Policy& policy, int) {
  return select_plain(policy, kernels::dense_linear_rows(), "dense_linear", WeightKind::kDense);
}

const kernels::MlaRow* select_mla(const Policy& policy, int m, int cached, const MlaShape& shape) {
  // Multiply-adds per head for m rows over T = cached + m positions:
  //   absorbed  m * (latent * (nope + v) + T * (2 * latent + rope))
  //   expanded  T * latent * (nope + v)  +  m * T * (nope + rope + v)
  const double total = static_cast<double>(cached) + m;
  const double up = static_cast<double>(shape.latent) * (shape.nope + shape.v);
  const double absorbed = m * (up + total * (2.0 * shape.latent + shape.rope));
  const double expanded = total * up + m * total * (static_cast<double>(shape.nope) + shape.rope + shape.v);
  const std::string_view family = absorbed <= expanded ? "mla_absorbed" : "mla_expanded";
  return select_mla_family(policy, family);
}

const kernels::MlaRow* select_mla_family(const Policy& policy, std::string_view family) {
  const auto* row = best_row(kernels::attention_mla_rows(), [&](const KernelRow& info) {
    return family == info.family && machine_and_wish_allow(policy, info);
  });
  if (row == nullptr) {
    throw Error(ErrorKind::kUsage,
                fmt::format("attention_mla: no row of family {} under {}", family, describe(policy)));
  }
  return row;
}

const kernels::GqaRow* select_gqa(const Policy& policy, int) {
  return select_plain(policy, kernels::attention_gqa_rows(), "attention_gqa", WeightKind::kNone);
}

}  // namespace fairway::select
