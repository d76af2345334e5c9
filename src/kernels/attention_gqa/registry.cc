// The registry rows of attention_gqa.
#include <climits>

#include "kernels/attention_gqa/attention_gqa.h"
#include "kernels/attention_gqa/bodies.h"

namespace fairway::kernels {
namespace {

template <const AttendOps& kOps>
void with_ops(const GqaArgs& args, KernelContext& context) {
  gqa(args, kOps, context);
}

constexpr KernelRow describe(const char* id, const char* family, const char* source, Backend backend,
                             std::uint32_t features) {
  return {.id = id,
          .op = "attention_gqa",
          .family = family,
          .source = source,
          .backend = backend,
          .requires_features = features,
          .weights = WeightKind::kNone,
          .activations = Activations::kFp32,
          .numerics = Numerics::kBounded,
          .codes = WeightCodes::kExact,
          .codebooks = 0,
          .bits = {},
          .use = RowUse::kByRows,
          .m_min = 1,
          .m_max = INT_MAX};
}

constexpr GqaRow kRows[] = {
#define FAIRWAY_ROW(name, backend_value, family, features, file, body) \
  {describe(#name "/" #family, #family, "src/kernels/attention_gqa/" file, Backend::backend_value, features), body},
#include "kernels/attention_gqa/kernels.inc"
#undef FAIRWAY_ROW
};

}  // namespace

std::span<const GqaRow> attention_gqa_rows() {
  return kRows;
}

}  // namespace fairway::kernels
