// How commands name what kernel rows and MoE layers are made of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/common/tile.h"

namespace fairway::cli {

std::vector<std::string> codebook_names(std::uint8_t codebooks);  // of a union of codebook_bit
std::string tile_text(const kernels::Tile& tile);                 // "256x64/1", "-" for none

}  // namespace fairway::cli
