// Kernel family names for a batch, by the rules of a device family alone: what the founding documents call
// select_moe_kernel and its relatives. Nothing here has seen a measurement of this machine.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "kernels/common/registry.h"
#include "select/thresholds.h"

namespace fairway::select {

// Names that may be chosen.
using KernelSet = std::set<std::string, std::less<>>;

struct KernelName {
  std::string kernel;  // family
  int tile_n;          // columns of a panel, 64 or 128
};

// What is asked for, beyond the batch.
struct NameQuery {
  int batch_size = 1;                     // tokens of the call, >= 1
  bool use_fp32_acc = false;              // the _fp32acc form
  std::optional<kernels::BitTuple> bits;  // widths of all experts, if they agree
  const KernelSet* available = nullptr;   // null: all that have a row, or are an alias of one, that runs here
  const DeviceProfile* device = nullptr;  // null: this machine
};

// True if the name has rows that run on this machine, or is an alias of a family that has.
bool is_available(std::string_view name);
// All names of known_families() that are available.
KernelSet available_families();

// The family for a batch, without looking at availability beyond the specialised decode kernels.
KernelName get_kernel_for_batch_size(const NameQuery& query);

// The same, gated by availability: a name that is not available is replaced by the base kernel, then by the first
// available one. Error(kUsage) if nothing is.
KernelName select_moe_kernel(const NameQuery& query);

// The name alone.
std::string get_moe_kernel(const NameQuery& query);

struct KernelRecommendation {
  KernelName name;
  bool use_fp32_acc;
  std::string reason;  // one sentence
};
// As select_moe_kernel, and decides on fp32 accumulation by the hidden size where the device family asks for it.
KernelRecommendation recommend_kernel(NameQuery query, int hidden_dim);

// The name with the suffix of fp32 accumulation, once.
std::string with_fp32acc(std::string_view family);

// Error(kUsage) unless the name is a known family, an alias, or the family or id of a row.
void check_kernel_name(std::string_view name);

}  // namespace fairway::select
