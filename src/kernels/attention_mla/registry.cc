// The registry rows of attention_mla.
#include <climits>

#include "kernels/attention_mla/attention_mla.h"
#include "kernels/attention_mla/bodies.h"

namespace fairway::kernels {
namespace {

template <void (*kBody)(const MlaArgs&, const AttendOps&, KernelContext&), const AttendOps& kOps>
void with_ops(const MlaArgs& args, KernelContext& context) {
  kBody(args, kOps, context);
}

// Both families are correct and meant for every m; select_mla chooses by their cost.
constexpr KernelRow describe(const char* id, const char* family, const char* source, Backend backend,
                             std::uint32_t features) {
  return {.id = id,
          .op = "attention_mla",
          .family = family,
          .source = source,
          .backend = backend,
          .requires_features = features,
          .weights = WeightKind::kDense,
          .activations = Activations::kFp32,
          .numerics = Numerics::kBounded,
          .codes = WeightCodes::kExact,
          .codebooks = 0,
          .bits = {},
          .use = RowUse::kByRows,
          .m_min = 1,
          .m_max = INT_MAX};
}

constexpr MlaRow kRows[] = {
#define FAIRWAY_ROW(name, backend_value, family, features, file, body) \
  {describe(#name "/" #family, #family, "src/kernels/attention_mla/" file, Backend::backend_value, features), body},
#include "kernels/attention_mla/kernels.inc"
#undef FAIRWAY_ROW
};

}  // namespace

std::span<const MlaRow> attention_mla_rows() {
  return kRows;
}

}  // namespace fairway::kernels
