// Legality and preference of kernel rows: pure functions of the policy, the shape and the registry.
#include "select/select.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <string_view>
#include <tuple>
#include <vector>

#include "fairway/error.h"
#include "select/allow.h"

namespace fairway::select {
namespace {

using kernels::Activations;
using kernels::Backend;
using kernels::KernelRow;
using kernels::WeightKind;

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

// Preferred rows have the larger rank: a better backend, then more of what this CPU offers beyond it, then activations
// that cost less.
auto rank(const KernelRow& row) {
  return std::tuple(row.backend, std::popcount(row.requires_features), row.activations);
}

// The row of the highest rank among those that `accept` takes, the first of equals; nullptr if there is none.
template <class Row, class Accept>
const Row* best_row(std::span<const Row> rows, const Accept& accept) {
  const Row* best = nullptr;
  for (const Row& row : rows) {
    if (accept(row.info) && (best == nullptr || rank(row.info) > rank(best->info))) best = &row;
  }
  return best;
}

bool meant_for_rows(const KernelRow& row, int m) {
  return row.use == kernels::RowUse::kByRows && m >= row.m_min && m <= row.m_max;
}

template <class Row>
Choice<Row> select_trellis(const Policy& policy, const TrellisShape& shape, std::span<const Row> rows, const char* op) {
  const Row* row = best_row(rows, [&](const KernelRow& info) {
    return machine_and_wish_allow(policy, info) && activations_allow(policy.activations, info.activations) &&
           serves_codes(info, shape) && meant_for_rows(info, shape.m);
  });
  if (row == nullptr) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: no kernel row serves {} under {}", op, describe(shape), describe(policy)));
  }
  if (row->info.backend == Backend::kCpuRef && !policy.backend) return {row, Fallback::kNoVectorRow};
  if (policy.activations != ActivationMode::kAuto || row->info.activations != Activations::kFp32) {
    return {row, Fallback::kNone};
  }
  // `auto` means cheaper activations than fp32 where the machine has them: say so if only this shape's codebook has
  // not.
  bool int8_here = false, int8_for_codebook = false;
  for (const Row& other : rows) {
    if (other.info.activations != Activations::kInt8 || !machine_and_wish_allow(policy, other.info)) continue;
    int8_here = true;
    int8_for_codebook = int8_for_codebook || (serves_codes(other.info, shape) && meant_for_rows(other.info, shape.m));
  }
  return {row, int8_here && !int8_for_codebook ? Fallback::kNoInt8ForCodebook : Fallback::kNone};
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

}  // namespace

const char* fallback_name(Fallback reason) {
  switch (reason) {
    case Fallback::kNone:
      return "none";
    case Fallback::kNoInt8ForCodebook:
      return "no_int8_for_codebook";
    case Fallback::kNoVectorRow:
      return "no_vector_row";
    case Fallback::kRefusedTuple:
      return "refused_tuple";
  }
  return "unknown";
}

Choice<kernels::MoeSwigluRow> select_moe_swiglu(const Policy& policy, const TrellisShape& shape) {
  if (!policy.kernel.empty()) return forced_moe_swiglu(policy, shape);
  return select_trellis(policy, shape, kernels::moe_swiglu_rows(), "moe_swiglu");
}

const kernels::MoeSwigluRow* select_moe_by_call(const Policy& policy, const KernelRow& like, std::uint8_t codebooks) {
  if (!policy.kernel.empty()) return nullptr;
  return best_row(kernels::moe_swiglu_rows(), [&](const KernelRow& row) {
    return row.use == kernels::RowUse::kByCall && row.backend == like.backend && row.activations == like.activations &&
           row.requires_features == like.requires_features && (codebooks & ~row.codebooks) == 0 &&
           machine_and_wish_allow(policy, row);
  });
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
