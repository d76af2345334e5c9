// Names of codebooks and tiles.
#include "cli/kernel_facts.h"

#include <fmt/core.h>

#include "codec/packing.h"
#include "kernels/common/registry.h"

namespace fairway::cli {

std::vector<std::string> codebook_names(std::uint8_t codebooks) {
  std::vector<std::string> names;
  for (const auto codebook : {codec::Codebook::k3inst, codec::Codebook::kMcg, codec::Codebook::kMul1}) {
    if (codebooks & kernels::codebook_bit(codebook)) names.emplace_back(codec::codebook_name(codebook));
  }
  return names;
}

std::string tile_text(const kernels::Tile& tile) {
  return tile == kernels::Tile{} ? "-" : fmt::format("{}x{}/{}", tile.m, tile.n, tile.workers);
}

}  // namespace fairway::cli
