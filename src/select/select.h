// Which row runs: legality is a pure function of row, shape and machine; preference is a pure function of the legal
// rows. The tuned table and the online learner join here later.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/attention_gqa/attention_gqa.h"
#include "kernels/attention_mla/attention_mla.h"
#include "kernels/common/registry.h"
#include "kernels/dense_linear/dense_linear.h"
#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_linear/trellis_linear.h"

namespace fairway::select {

// kAuto: the best row, whatever its activations; of equal ones int8, then fp16, then fp32.
enum class ActivationMode { kAuto, kInt8, kFp16, kFp32 };

class KernelSelector;

// What the user asked for. An explicit wish that cannot be honoured is an error, never a silent substitute.
struct Policy {
  std::optional<kernels::Backend> backend;  // rows of exactly this backend; unset: the best that runs here
  ActivationMode activations = ActivationMode::kAuto;
  std::string kernel;                        // moe_swiglu row id or family that must be used for every trellis group
  std::uint32_t features = 0;                // machine features (set by make_policy; tests may lower them)
  std::shared_ptr<KernelSelector> selector;  // for MoE calls; attach_selector makes one
};

// Reads the machine's features and checks the wishes against them: an unknown kernel or backend name, or one that
// cannot run here, is Error(kUsage) that lists what could be used. An alias of a family becomes that family. Empty
// strings mean "no wish". The selector goes by the rules alone until attach_selector gives it threads and a table.
Policy make_policy(const std::string& backend, const std::string& activations, const std::string& kernel);

// True if each op of the backend has a row that runs with these features: a backend's ops are used together. Rows that
// need more of the CPU than their neighbours are no hindrance.
bool backend_runs(kernels::Backend backend, std::uint32_t features);

// What a matrix product needs from a row.
struct TrellisShape {
  int m;  // rows of x for one matrix (for a group: tokens of the expert)
  kernels::BitTuple bits;
  std::uint8_t codebooks;  // union over the matrices of the call
};

// Why the preferred kind of row was not used; counted by name.
enum class Fallback : std::uint8_t { kNone, kNoInt8ForCodebook, kNoVectorRow, kRefusedTuple };
constexpr std::size_t kFallbacks = 4;
const char* fallback_name(Fallback reason);

template <class Row>
struct Choice {
  const Row* row;
  Fallback fallback;
};

// Error(kUsage) if the policy forces something that cannot serve the shape; the message carries shape and row.
Choice<kernels::MoeSwigluRow> select_moe_swiglu(const Policy& policy, const TrellisShape& shape);
// The row that serves groups of all sizes in one call, of the backend, CPU features and activations of `like`, for all
// of these codebooks; nullptr if there is none or a row is forced.
const kernels::MoeSwigluRow* select_moe_by_call(const Policy& policy, const kernels::KernelRow& like,
                                                std::uint8_t codebooks);
Choice<kernels::TrellisLinearRow> select_trellis_linear(const Policy& policy, const TrellisShape& shape);
const kernels::MoeSwigluRow* select_moe_dense(const Policy& policy, int m);
const kernels::DenseLinearRow* select_dense_linear(const Policy& policy, int m);
// Sizes of one head that decide between the two ways to compute latent attention.
struct MlaShape {
  int nope, rope, v, latent;
};
// The way with fewer multiply-adds for m rows after `cached` positions; select_mla_family is for a forced one.
const kernels::MlaRow* select_mla(const Policy& policy, int m, int cached, const MlaShape& shape);
const kernels::MlaRow* select_mla_family(const Policy& policy, std::string_view family);
const kernels::GqaRow* select_gqa(const Policy& policy, int m);

}  // namespace fairway::select
