// group_tokens: assignments (token, k) -> contiguous slots per expert, stable in token order.
#pragma once

#include <cstdint>
#include <vector>

namespace fairway::kernels {

struct TokenGroups {
  std::vector<std::int32_t> offsets;  // [experts + 1], slots of expert e are offsets[e] .. offsets[e + 1]
  std::vector<std::int32_t> rows;     // [m * top_k], token of each slot
  std::vector<std::int32_t> slot_of;  // [m * top_k], slot of assignment token * top_k + k
};

// ids: [m, top_k]. Reuses the vectors' storage.
void group_tokens(const std::int32_t* ids, int m, int top_k, int experts, TokenGroups& groups);

}  // namespace fairway::kernels
