// group_tokens: a counting sort, stable in token order.
#include "kernels/group_tokens/group_tokens.h"

#include <cstddef>

namespace fairway::kernels {

void group_tokens(const std::int32_t* ids, int m, int top_k, int experts, TokenGroups& groups) {
  const std::size_t assignments = static_cast<std::size_t>(m) * static_cast<std::size_t>(top_k);
  groups.offsets.assign(static_cast<std::size_t>(experts) + 1, 0);
  groups.rows.resize(assignments);
  groups.slot_of.resize(assignments);
  for (std::size_t a = 0; a < assignments; ++a) ++groups.offsets[static_cast<std::size_t>(ids[a])];
  // Turn counts into ends: walking the assignments backwards then fills each expert from its end and leaves begins.
  std::int32_t end = 0;
  for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e) {
    end += groups.offsets[e];
    groups.offsets[e] = end;
  }
  groups.offsets[static_cast<std::size_t>(experts)] = end;
  for (std::size_t a = assignments; a-- > 0;) {
    const std::int32_t slot = --groups.offsets[static_cast<std::size_t>(ids[a])];
    groups.rows[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(a / static_cast<std::size_t>(top_k));
    groups.slot_of[a] = slot;
  }
}

}  // namespace fairway::kernels
