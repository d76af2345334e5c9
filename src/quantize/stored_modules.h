// The tensors of a checkpoint by module, and the rules that EXL3 has for each module.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "codec/trellis.h"
#include "fairway/error.h"
#include "formats/checkpoint.h"
#include "formats/config.h"

namespace fairway::quantize {

// Tensors "PREFIX.part" by part.
struct StoredModule {
  std::map<std::string, const formats::TensorView*> parts;
  bool sound = true;  // no problem was found in it

  const formats::TensorView* find(const std::string& part) const;
  bool is_trellis() const { return find("trellis") != nullptr; }
  int bits() const;  // of a sound trellis
  codec::Codebook codebook() const;
};

using StoredModules = std::map<std::string, StoredModule>;

// Runs a check whose complaint, an Error, becomes one of the problems; that the user cancelled is none.
template <typename Step>
void attempt(std::vector<std::string>& problems, const Step& step) {
  try {
    step();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) throw;
    problems.emplace_back(error.what());
  }
}

StoredModules stored_modules(const formats::Checkpoint& checkpoint);

// Appends one line per broken rule: parts that belong together, types, shapes in multiples of 128, widths 1 to 8,
// flags, finite scales, one codebook in the file. Modules with a problem are marked.
void check_modules(const formats::Checkpoint& checkpoint, StoredModules& modules, std::vector<std::string>& problems,
                   std::vector<std::string>& notes);

// What the architecture needs is there, of its size, coded or plain as it must be, plain tensors in the format's types.
void check_layout(const formats::Checkpoint& checkpoint, const formats::ModelConfig& config,
                  const StoredModules& modules, std::vector<std::string>& problems, std::vector<std::string>& notes);

}  // namespace fairway::quantize
