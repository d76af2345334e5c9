// Walks the layout of the architecture and decides each tensor's origin and type.
#include "quantize/assembly_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"
#include "formats/model_layout.h"

namespace fairway::quantize {
namespace {

using formats::LinearRole;
using formats::LinearSpec;
using formats::TensorSpec;
using formats::TensorType;
using formats::TensorView;

using codec::padded;

class Planner {
 public:
  Planner(const formats::ModelConfig& config, const formats::Checkpoint& source, const PartStore& parts,
          const std::vector<std::string>& prefixes, codec::Codebook codebook)
      : config_(config),
        source_(source),
        parts_(parts),
        quantized_(prefixes.begin(), prefixes.end()),
        codebook_(codebook) {}

  AssemblyPlan make() {
    // The layout gives linears in order of use; the vectors of a layer go before its linears.
    int layer = -1;
    formats::visit_linears(config_, [&](const LinearSpec& spec) {
      if (spec.layer != layer && spec.layer >= 0) add_vectors(layer = spec.layer);
      if (spec.role == LinearRole::kHead) add_final_norm();
      add_linear(spec);
      return true;
    });
    if (!quantized_.empty()) {
      throw Error(ErrorKind::kUsage, fmt::format("matrix \"{}\" is no linear of {}",
                                                 formats::printable(*quantized_.begin()), config_.architecture_name));
    }
    find_left_out();
    return std::move(plan_);
  }

 private:
  void add_vectors(int layer) {
    for (const formats::VectorSpec& spec : formats::layer_vectors(config_, layer)) add_vector(spec);
  }
  void add_final_norm() {
    for (const formats::VectorSpec& spec : formats::expected_vectors(config_)) {
      if (spec.layer < 0) add_vector(spec);
    }
  }

  void add_vector(const formats::VectorSpec& spec) {
    const bool half = spec.name.ends_with("e_score_correction_bias");
    add_source(spec.name, {spec.count}, {spec.count}, half);
  }

  void add_linear(const LinearSpec& spec) {
    modules_.insert(spec.prefix);
    if (quantized_.erase(spec.prefix) > 0) {
      add_part(spec);
    } else if (!spec.optional) {  // a tied model has no head of its own unless it is quantized
      const bool head = spec.role == LinearRole::kHead;
      add_source(spec.prefix + ".weight", {spec.out, spec.in}, {head ? padded(spec.out) : spec.out, spec.in},
                 spec.role != LinearRole::kEmbedding);
      const std::string bias = spec.prefix + ".bias";
      if (spec.bias || source_.find(bias) != nullptr) add_source(bias, {spec.out}, {spec.out}, true);
    }
  }

  void add_part(const LinearSpec& spec) {
    const auto fail = [&](const std::string& what) {
      throw Error(ErrorKind::kUsage, fmt::format("matrix \"{}\" {}", spec.prefix, what));
    };
    if (spec.dense_only) fail("must stay plain in EXL3");
    const PartShape shape = parts_.shape(spec.prefix);
    if (shape.in != padded(spec.in) || shape.out != padded(spec.out)) {
      fail(fmt::format("is {} x {} in {}, expected {} x {}", shape.in, shape.out, parts_.folder().string(),
                       padded(spec.in), padded(spec.out)));
    }
    if (shape.codebook != codebook_) {
      fail(fmt::format("has the codebook {}, expected {} as all others", codec::codebook_name(shape.codebook),
                       codec::codebook_name(codebook_)));
    }
    if (!shape.bias && (spec.bias || source_.find(spec.prefix + ".bias") != nullptr)) fail("has lost its bias");
    std::vector<TensorSpec> tensors =
        formats::exl3_tensors(spec.prefix, shape.in, shape.out, shape.bits, shape.codebook);
    if (shape.bias) tensors.push_back({spec.prefix + ".bias", TensorType::kF16, {shape.out}});
    add({std::move(tensors), spec.prefix, true});
  }

  // `half`: stored as F16 whatever the source has.
  void add_source(const std::string& name, const std::vector<std::int64_t>& expected, std::vector<std::int64_t> shape,
                  bool half) {
    const TensorView& view = source_.require(name);
    if (view.shape != expected) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: tensor \"{}\" has shape [{}], expected [{}]", source_.file_of(view).string(), name,
                              fmt::join(view.shape, ", "), fmt::join(expected, ", ")));
    }
    const bool keep = !half && view.type == TensorType::kBf16;
    add({{{name, keep ? TensorType::kBf16 : TensorType::kF16, std::move(shape)}}, name, false});
    modules_.insert(formats::module_of(name));
  }

  void add(AssemblyItem item) {
    for (const TensorSpec& tensor : item.tensors) plan_.bytes += formats::tensor_bytes(tensor);
    plan_.items.push_back(std::move(item));
  }

  // What the source has besides the modules of the architecture, in whatever form it stores these.
  void find_left_out() {
    for (const TensorView* tensor : source_.tensors()) {
      if (modules_.contains(formats::module_of(tensor->name)) || is_fused(tensor->name)) continue;
      plan_.left_out.push_back(tensor->name);
      plan_.left_out_bytes += std::ssize(tensor->bytes);
    }
  }

  // model.layers.3.mlp.experts.gate_up_proj and the like: all experts of a layer in one tensor.
  bool is_fused(const std::string& name) const {
    constexpr std::string_view kExperts = ".mlp.experts.";
    const std::size_t at = name.find(kExperts);
    return at != std::string::npos && modules_.contains(name.substr(0, at) + ".mlp.experts.0.gate_proj") &&
           (name.substr(at + kExperts.size()).starts_with("gate_up_proj") ||
            name.substr(at + kExperts.size()).starts_with("down_proj"));
  }

  const formats::ModelConfig& config_;
  const formats::Checkpoint& source_;
  const PartStore& parts_;
  std::set<std::string> quantized_;  // prefixes that the walk has not met yet
  codec::Codebook codebook_;
  std::set<std::string> modules_;
  AssemblyPlan plan_;
};

}  // namespace

std::vector<TensorSpec> AssemblyPlan::tensors() const {
  std::vector<TensorSpec> all;
  for (const AssemblyItem& item : items) all.insert(all.end(), item.tensors.begin(), item.tensors.end());
  return all;
}

AssemblyPlan plan_assembly(const formats::ModelConfig& config, const formats::Checkpoint& source,
                           const PartStore& parts, const std::vector<std::string>& prefixes, codec::Codebook codebook) {
  return Planner(config, source, parts, prefixes, codebook).make();
}

}  // namespace fairway::quantize
