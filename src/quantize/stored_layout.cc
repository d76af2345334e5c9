// Rules of the format for a whole model: what must be there, and what must not be coded.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "fairway/error.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"
#include "formats/model_layout.h"
#include "quantize/stored_modules.h"

namespace fairway::quantize {
namespace {

using formats::LinearRole;
using formats::LinearSpec;
using formats::TensorType;
using formats::TensorView;

class LayoutCheck {
 public:
  LayoutCheck(const formats::Checkpoint& checkpoint, const formats::ModelConfig& config, const StoredModules& modules,
              std::vector<std::string>& problems)
      : checkpoint_(checkpoint), config_(config), modules_(modules), problems_(problems) {}

  void run(std::vector<std::string>& notes) {
    formats::visit_linears(config_, [&](const LinearSpec& spec) {
      check_linear(spec);
      return true;
    });
    for (const formats::VectorSpec& spec : formats::expected_vectors(config_)) check_vector(spec);
    note_plain(notes);
    note_experts(notes);
    note_unknown(notes);
  }

 private:
  void check_linear(const LinearSpec& spec) {
    known_.insert(spec.prefix);
    const auto at = modules_.find(spec.prefix);
    const bool coded = at != modules_.end() && at->second.is_trellis();
    if (spec.optional && !coded) return;
    if (at != modules_.end() && !at->second.sound) return;  // what is wrong with it was said
    attempt(problems_, [&] { formats::load_linear(checkpoint_, spec); });
    if (spec.role == LinearRole::kExpert && coded) add_expert(spec, at->second.bits());
    if (coded || at == modules_.end()) return;
    if (!spec.dense_only) plain_.push_back(spec.prefix);
    for (const char* part : {"weight", "bias"}) {
      if (const TensorView* tensor = at->second.find(part)) {
        check_type(*tensor, spec.role == LinearRole::kEmbedding);
      }
    }
  }

  void check_vector(const formats::VectorSpec& spec) {
    known_.insert(formats::module_of(spec.name));
    attempt(problems_, [&] {
      checkpoint_.read_vector(spec.name, spec.count);
      check_type(checkpoint_.require(spec.name), !spec.name.ends_with("e_score_correction_bias"));
    });
  }

  void check_type(const TensorView& tensor, bool may_be_bf16) {
    if (tensor.type == TensorType::kF16 || (may_be_bf16 && tensor.type == TensorType::kBf16)) return;
    problems_.push_back(fmt::format("{}: tensor \"{}\" is {}, expected F16{}", checkpoint_.file_of(tensor).string(),
                                    formats::printable(tensor.name), tensor_type_name(tensor.type),
                                    may_be_bf16 ? " or BF16" : ""));
  }

  void add_expert(const LinearSpec& spec, int bits) {
    const std::string projection = fmt::format("{}mlp.experts.*.{}", formats::layer_prefix(spec.layer),
                                               spec.prefix.substr(spec.prefix.rfind('.') + 1));
    widths_[projection].insert(bits);
  }

  void note_plain(std::vector<std::string>& notes) const {
    if (plain_.empty()) return;
    notes.push_back(fmt::format("{} linear{} that EXL3 writers code {} plain, first \"{}\"", plain_.size(),
                                plain_.size() == 1 ? "" : "s", plain_.size() == 1 ? "is" : "are", plain_.front()));
  }

  // The reference implementation's loader (1.4.1, modules/multilinear.py) asserts one width per projection and layer.
  void note_experts(std::vector<std::string>& notes) const {
    const auto mixed = [](const auto& entry) { return entry.second.size() > 1; };
    const auto first = std::find_if(widths_.begin(), widths_.end(), mixed);
    if (widths_.empty()) return;
    if (first == widths_.end()) {
      notes.push_back("exllamav3: all experts of a projection have one width in every layer, as its loader needs");
      return;
    }
    notes.push_back(
        fmt::format("exllamav3: in {} of {} projections of layers the experts have different widths (\"{}\": {} bits); "
                    "version 1.4.1 refuses to load that (quantize with --max-tuples 1)",
                    std::count_if(widths_.begin(), widths_.end(), mixed), widths_.size(), first->first,
                    fmt::join(first->second, ", ")));
  }

  void note_unknown(std::vector<std::string>& notes) const {
    std::size_t tensors = 0;
    std::string first;
    for (const auto& [prefix, module] : modules_) {
      if (known_.contains(prefix)) continue;
      if (tensors == 0) first = prefix;
      tensors += module.parts.size();
    }
    if (tensors == 0) return;
    notes.push_back(fmt::format("{} tensor{} that {} does not name, first in \"{}\"", tensors, tensors == 1 ? "" : "s",
                                config_.architecture_name, formats::printable(first)));
  }

  const formats::Checkpoint& checkpoint_;
  const formats::ModelConfig& config_;
  const StoredModules& modules_;
  std::vector<std::string>& problems_;
  std::set<std::string> known_;
  std::vector<std::string> plain_;
  std::map<std::string, std::set<int>> widths_;  // of a projection of a layer's experts
};

}  // namespace

void check_layout(const formats::Checkpoint& checkpoint, const formats::ModelConfig& config,
                  const StoredModules& modules, std::vector<std::string>& problems, std::vector<std::string>& notes) {
  LayoutCheck(checkpoint, config, modules, problems).run(notes);
}

}  // namespace fairway::quantize
