// Small random model directories, written on the fly: EXL3 with any widths, and the same weights dequantized.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "codec/trellis.h"
#include "formats/config.h"
#include "kernels/common/registry.h"

namespace fairway::test {

// A directory of its own under the system's temporary folder, removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A width triple that no other expert index below 64 has; every width from 1 to 8 occurs.
kernels::BitTuple different_bits(int layer, int expert);

struct TinySpec {
  formats::Architecture architecture = formats::Architecture::kGlm4MoeLite;
  int hidden = 256, layers = 2, vocab = 320, max_positions = 256;
  int heads = 4;
  int kv_heads = 2, head_dim = 64;                                         // GQA
  int q_lora_rank = 128, kv_lora_rank = 96, nope = 48, rope = 32, v = 64;  // MLA; q_lora_rank 0: one q_proj
  bool rope_interleave = true;                                             // MLA
  int experts = 9, top_k = 3, expert_intermediate = 192;                   // 192 is stored padded to 256
  int dense_layers = 1, dense_intermediate = 320;  // sigmoid architectures: leading dense layers
  int shared_experts = 1;                          // sigmoid architectures
  bool tie_word_embeddings = false;                // then no lm_head is written
  int attention_bits = 4, dense_bits = 3, head_bits = 6;
  std::function<kernels::BitTuple(int layer, int expert)> expert_bits = different_bits;
  codec::Codebook codebook = codec::Codebook::kMul1;
  bool all_codebooks = false;     // matrices take the three codebooks in turn instead
  int expert_with_plain_up = -1;  // this routed expert's up_proj stays plain in EXL3, which is refused on loading
  std::uint64_t seed = 1;
};

enum class TinyForm { kExl3, kDequantizedF32 };

// config.json, model.safetensors and a tokenizer.json of single bytes (ids 0..255) with <|endoftext|> = 256 as the
// begin and end of a text. The same spec gives the same weights in both forms.
void write_tiny_checkpoint(const std::filesystem::path& dir, const TinySpec& spec, TinyForm form);

}  // namespace fairway::test
