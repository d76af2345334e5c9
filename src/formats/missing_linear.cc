// Why a linear was not found: a form of storage that is not read, or a part of it that is not there.
#include <fmt/format.h>

#include <string_view>

#include "fairway/error.h"
#include "formats/checkpoint_state.h"

namespace fairway::formats {

void fail_missing_linear(const Checkpoint& checkpoint, const std::string& prefix) {
  const std::string directory = checkpoint.directory().string();
  // A fused layout keeps all experts in one 3-D tensor beside the place where this module was looked for.
  constexpr std::string_view kExperts = ".mlp.experts.";
  if (const std::size_t at = prefix.find(kExperts); at != std::string::npos) {
    const std::string base = prefix.substr(0, at + kExperts.size());
    for (const char* part :
         {"gate_up_proj", "gate_up_proj.weight", "gate_up_proj.trellis", "down_proj", "down_proj.weight"}) {
      if (checkpoint.find(base + part) == nullptr) continue;
      throw Error(
          ErrorKind::kUnsupported,
          fmt::format(
              "{}: tensor \"{}{}\": fused expert tensors are not supported; split them per expert ({}N.gate_proj "
              "and so on)",
              directory, base, part, base));
    }
  }
  if (checkpoint.find(prefix + ".slice.0.trellis") != nullptr) {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{}: tensor \"{}.slice.0.trellis\": linears cut into slices are not supported", directory, prefix));
  }
  std::string found;
  for (const char* part : {"trellis", "suh", "su", "svh", "sv"}) {
    if (checkpoint.find(prefix + "." + part) != nullptr) found += fmt::format("{}{}", found.empty() ? "" : ", ", part);
  }
  throw Error(
      ErrorKind::kBadInput,
      fmt::format(
          "{}: linear \"{}\" is missing: looked for {}.weight, or {}.trellis with suh (or su) and svh (or sv){}",
          directory, prefix, prefix, prefix, found.empty() ? "" : "; found only " + found));
}

}  // namespace fairway::formats
