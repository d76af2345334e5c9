// The rules of kernel_names.h.
#include "select/kernel_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backend/cpu/features.h"
#include "fairway/error.h"

namespace fairway::select {
namespace {

using kernels::BitTuple;

constexpr std::string_view kFp32Suffix = "_fp32acc";
constexpr std::string_view kBaseKernel = "moe_trellis_swiglu";

struct SpecializedDecode {
  BitTuple bits;
  std::string_view family;
};
constexpr SpecializedDecode kSpecializedDecode[] = {
    {{6, 2, 3}, "moe_trellis_swiglu_decode_6_2_3"},
    {{6, 3, 4}, "moe_trellis_swiglu_decode_6_3_4"},
    {{6, 2, 4}, "moe_trellis_swiglu_decode_6_2_4"},
};

bool allows(const NameQuery& query, std::string_view name) {
  return query.available == nullptr ? is_available(name) : query.available->contains(name);
}

const DeviceProfile& device_of(const NameQuery& query) {
  return query.device == nullptr ? this_device() : *query.device;
}

}  // namespace

bool is_available(std::string_view name) {
  const kernels::KernelAlias* alias = kernels::find_alias(name);
  const std::string_view family = alias == nullptr ? name : alias->target_family;
  const std::uint32_t features = backend::cpu_info().features;
  const auto& rows = kernels::all_kernel_rows();
  return std::any_of(rows.begin(), rows.end(), [&](const kernels::KernelRow* row) {
    return (family == row->family || family == row->id) && kernels::can_run(*row, features);
  });
}

KernelSet available_families() {
  KernelSet names;
  for (const std::string_view name : kernels::known_families()) {
    if (is_available(name)) names.emplace(name);
  }
  return names;
}

std::string with_fp32acc(std::string_view family) {
  return family.ends_with(kFp32Suffix) ? std::string(family) : std::string(family) + std::string(kFp32Suffix);
}

void check_kernel_name(std::string_view name) {
  const auto known = kernels::known_families();
  if (std::find(known.begin(), known.end(), name) != known.end() || kernels::find_alias(name) != nullptr) return;
  for (const kernels::KernelRow* row : kernels::all_kernel_rows()) {
    if (name == row->family || name == row->id) return;
  }
  throw Error(ErrorKind::kUsage, fmt::format("kernel '{}' does not exist; `fairway kernels` lists all names", name));
}

KernelName get_kernel_for_batch_size(const NameQuery& query) {
  const DeviceProfile& device = device_of(query);
  const BatchRule& rule = rule_for_batch(device, query.batch_size);
  if (device.specialized_decode && query.batch_size == 1 && query.bits && !query.use_fp32_acc) {
    for (const SpecializedDecode& special : kSpecializedDecode) {
      if (special.bits == *query.bits && allows(query, special.family)) {
        return {std::string(special.family), rule.tile_n};
      }
    }
  }
  return {query.use_fp32_acc ? with_fp32acc(rule.kernel) : std::string(rule.kernel), rule.tile_n};
}

KernelName select_moe_kernel(const NameQuery& query) {
  KernelName name = get_kernel_for_batch_size(query);
  if (allows(query, name.kernel)) return name;
  const std::string base = query.use_fp32_acc ? with_fp32acc(kBaseKernel) : std::string(kBaseKernel);
  if (allows(query, base)) return {base, name.tile_n};
  const KernelSet all = query.available == nullptr ? available_families() : *query.available;
  if (all.empty()) throw Error(ErrorKind::kUsage, "no kernel is available");
  return {*all.begin(), name.tile_n};
}

std::string get_moe_kernel(const NameQuery& query) {
  return select_moe_kernel(query).kernel;
}

KernelRecommendation recommend_kernel(NameQuery query, int hidden_dim) {
  if (hidden_dim < 1) throw Error(ErrorKind::kUsage, fmt::format("hidden size {}, expected 1 or more", hidden_dim));
  const DeviceProfile& device = device_of(query);
  const bool asked = query.use_fp32_acc;
  query.use_fp32_acc = asked || (device.fp32_hidden > 0 && hidden_dim >= device.fp32_hidden);
  KernelName name = select_moe_kernel(query);
  std::string reason = fmt::format("{} tokens fall into the bucket '{}' of {}", query.batch_size,
                                   rule_for_batch(device, query.batch_size).bucket, device.family);
  if (asked) {
    reason += "; fp32 accumulation was asked for";
  } else if (query.use_fp32_acc) {
    reason += fmt::format("; hidden size {} is at least {}, so sums are fp32", hidden_dim, device.fp32_hidden);
  }
  return {std::move(name), query.use_fp32_acc, std::move(reason)};
}

}  // namespace fairway::select
