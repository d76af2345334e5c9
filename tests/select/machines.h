// Policies of machines that the tests need not run on, and a layer to select for.
#pragma once

#include <vector>

#include "select/moe_call.h"
#include "select/select.h"

namespace fairway::test {

inline constexpr std::uint32_t kAvx2Machine = backend::kCpuAvx2;
inline constexpr std::uint32_t kAvx512Machine =
    backend::kCpuAvx2 | backend::kCpuAvx512 | backend::kCpuAvx512Vnni | backend::kCpuAvx512Vbmi;
inline constexpr std::uint32_t kFp16Machine = kAvx512Machine | backend::kCpuAvx512Fp16;
inline constexpr std::uint8_t kMul1 = kernels::codebook_bit(codec::Codebook::kMul1);
inline constexpr std::uint8_t kMcg = kernels::codebook_bit(codec::Codebook::kMcg);

inline select::Policy on(std::uint32_t features, select::ActivationMode mode = select::ActivationMode::kAuto) {
  select::Policy policy;
  policy.features = features;
  policy.activations = mode;
  return policy;
}

// 64 experts, 4 of them for each token, and one for all.
inline select::MoeLayerTraits layer(std::uint8_t codebooks = kMul1,
                                    std::vector<select::TupleShare> mix = {{{6, 2, 3}, 1}}) {
  return select::moe_traits(2048, 1408, 64, 4, 1, codebooks, std::move(mix));
}

}  // namespace fairway::test
