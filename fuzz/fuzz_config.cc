// Any text as config.json: either an Error, or a configuration whose sizes a model can be built from.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "fairway/error.h"
#include "formats/config.h"
#include "formats/model_layout.h"

namespace {

using fairway::formats::ModelConfig;

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const ModelConfig& config) {
  require(config.layer_is_moe.size() == static_cast<std::size_t>(config.num_hidden_layers));
  require(config.num_experts_per_tok <= config.n_routed_experts);
  require(config.num_attention_heads % config.num_key_value_heads == 0);
  int visited = 0;
  fairway::formats::visit_linears(config, [&](const auto& spec) {
    require(spec.in > 0 && spec.out > 0);
    return ++visited < 200;  // the sizes repeat after a layer or two
  });
  for (const auto& spec : fairway::formats::layer_vectors(config, 0)) require(spec.count > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(fairway::formats::parse_model_config(std::string(reinterpret_cast<const char*>(data), size), "config.json"));
  } catch (const fairway::Error& error) {
    const auto kind = error.kind();
    require(kind == fairway::ErrorKind::kBadInput || kind == fairway::ErrorKind::kUnsupported);
  }
  return 0;
}
