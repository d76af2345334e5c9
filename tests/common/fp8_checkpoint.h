// A small random model directory twice: with fp8 matrices, and with the floats that these stand for.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "common/tiny_checkpoint.h"
#include "formats/config.h"

namespace fairway::test {

// All matrices that fp8 checkpoints usually have so: not the embedding, the router and the head.
bool is_usually_fp8(const std::string& tensor);

// `plain` is a model of F32, and `fp8` the same model with every matrix that `choose` takes as E4M3 and, beside it, F32
// scales of blocks, which are no powers of two. Blocks do not divide the sizes. Values are equal to the last bit.
void write_fp8_pair(const std::filesystem::path& fp8, const std::filesystem::path& plain, const TinySpec& spec,
                    formats::Fp8Block block = {48, 40},
                    const std::function<bool(const std::string&)>& choose = is_usually_fp8);

}  // namespace fairway::test
