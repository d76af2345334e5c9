// All kernel rows together, the family names the project knows, and the names of the rows' properties.
#include "kernels/common/registry.h"

#include <algorithm>

#include "kernels/attention_gqa/attention_gqa.h"
#include "kernels/attention_mla/attention_mla.h"
#include "kernels/dense_linear/dense_linear.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::kernels {
namespace {

template <class Rows>
void append(std::vector<const KernelRow*>& all, const Rows& rows) {
  for (const auto& row : rows) all.push_back(&row.info);
}

std::vector<const KernelRow*> collect() {
  std::vector<const KernelRow*> all;
  append(all, trellis_linear_rows());
  append(all, moe_swiglu_rows());
  append(all, dense_linear_rows());
  append(all, attention_mla_rows());
  append(all, attention_gqa_rows());
  return all;
}

}  // namespace

const char* backend_name(Backend backend) {
  switch (backend) {
    case Backend::kCpuRef:
      return "cpu_ref";
    case Backend::kCpuAvx2:
      return "cpu_avx2";
    case Backend::kCpuAvx512:
      return "cpu_avx512";
  }
  return "unknown";
}

const char* activations_name(Activations activations) {
  switch (activations) {
    case Activations::kFp32:
      return "fp32";
    case Activations::kFp16:
      return "fp16";
    case Activations::kInt8:
      return "int8";
  }
  return "unknown";
}

const char* numerics_name(Numerics numerics) {
  switch (numerics) {
    case Numerics::kExact:
      return "exact";
    case Numerics::kConsistent:
      return "consistent";
    case Numerics::kBounded:
      return "bounded";
  }
  return "unknown";
}

const char* codes_name(WeightCodes codes) {
  switch (codes) {
    case WeightCodes::kExact:
      return "exact";
    case WeightCodes::kPairs:
      return "pairs";
    case WeightCodes::kBytes:
      return "bytes";
  }
  return "unknown";
}

const char* use_name(RowUse use) {
  switch (use) {
    case RowUse::kByRows:
      return "rows";
    case RowUse::kByCall:
      return "call";
    case RowUse::kOnRequest:
      return "request";
  }
  return "unknown";
}

const std::vector<const KernelRow*>& all_kernel_rows() {
  static const std::vector<const KernelRow*> all = collect();
  return all;
}

std::span<const std::string_view> known_families() {
  static constexpr std::string_view kNames[] = {
      "moe_trellis_swiglu_decode",
      "moe_trellis_swiglu_decode_6_2_3",
      "moe_trellis_swiglu_decode_6_3_4",
      "moe_trellis_swiglu_decode_6_2_4",
      "moe_trellis_swiglu_prefill4",
      "moe_trellis_swiglu",
      "moe_trellis_swiglu_large_batch",
      "moe_trellis_swiglu_decode_fp32acc",
      "moe_trellis_swiglu_prefill4_fp32acc",
      "moe_trellis_swiglu_fp32acc",
      "moe_trellis_swiglu_large_batch_fp32acc",
      "moe_trellis_swiglu_grouped",
      "moe_trellis_swiglu_grouped_fp32acc",
      "fast_2bit_kernel",
      "mixed_bpw_kernel",
  };
  return kNames;
}

std::span<const KernelAlias> kernel_aliases() {
  static constexpr KernelAlias kAliases[] = {
#define FAIRWAY_ALIAS(name, target_family, reason) {name, target_family, reason},
#include "kernels/common/aliases.inc"
#undef FAIRWAY_ALIAS
  };
  return kAliases;
}

const KernelAlias* find_alias(std::string_view name) {
  for (const KernelAlias& alias : kernel_aliases()) {
    if (name == alias.name) return &alias;
  }
  return nullptr;
}

std::vector<std::string_view> missing_families() {
  std::vector<std::string_view> missing;
  for (const std::string_view family : known_families()) {
    const auto& rows = all_kernel_rows();
    const bool present =
        std::any_of(rows.begin(), rows.end(), [&](const KernelRow* row) { return row->family == family; });
    if (!present && find_alias(family) == nullptr) missing.push_back(family);
  }
  return missing;
}

}  // namespace fairway::kernels
