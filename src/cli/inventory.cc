// Adding up a checkpoint's tensors.
#include "cli/inventory.h"

#include <set>
#include <string>
#include <string_view>

namespace fairway::cli {
namespace {

using formats::Checkpoint;
using formats::LinearRole;

std::int64_t bytes_of(const formats::TensorView& tensor) {
  return static_cast<std::int64_t>(tensor.bytes.size());
}

// 1..8, or kDenseBits.
int stored_bits(const Checkpoint& checkpoint, const std::string& prefix) {
  const formats::TensorView* trellis = checkpoint.find(prefix + ".trellis");
  return trellis == nullptr ? kDenseBits : static_cast<int>(trellis->shape.back() / 16);
}

void add_linear(const Checkpoint& checkpoint, const formats::LinearSpec& spec, std::set<std::string>& used,
                Inventory& out) {
  RoleSize& role = out.roles[static_cast<std::size_t>(spec.role)];
  const std::int64_t weights = std::int64_t{spec.in} * spec.out;
  CodedSize coded{.matrices = 1, .weights = weights};
  bool present = false;
  for (const std::string_view part : {".trellis", ".suh", ".svh", ".su", ".sv", ".mcg", ".mul1", ".bias", ".weight"}) {
    const formats::TensorView* tensor = checkpoint.find(spec.prefix + std::string(part));
    if (tensor == nullptr) continue;
    present = true;
    used.insert(tensor->name);
    role.bytes += bytes_of(*tensor);
    if (part == ".trellis") {
      out.scale_elems += 16 * (tensor->shape[0] + tensor->shape[1]);
      coded.padded_weights = 256 * tensor->shape[0] * tensor->shape[1];
      coded.code_bytes += bytes_of(*tensor);
    } else if (part != ".weight") {
      coded.side_bytes += bytes_of(*tensor);
    }
  }
  if (present) role.weights += weights;
  if (checkpoint.has_trellis(spec.prefix)) out.coded[static_cast<std::size_t>(spec.role)] += coded;
}

}  // namespace

CodedSize& CodedSize::operator+=(const CodedSize& other) {
  matrices += other.matrices;
  weights += other.weights;
  padded_weights += other.padded_weights;
  code_bytes += other.code_bytes;
  side_bytes += other.side_bytes;
  return *this;
}

RoleSize Inventory::total() const {
  RoleSize sum = vectors;
  for (const RoleSize& role : roles) sum = {sum.weights + role.weights, sum.bytes + role.bytes};
  return sum;
}

CodedSize Inventory::coded_total(bool with_head) const {
  CodedSize sum;
  for (std::size_t i = 0; i < kRoles; ++i) {
    if (!with_head && static_cast<LinearRole>(i) == LinearRole::kHead) continue;
    sum += coded[i];
  }
  return sum;
}

Inventory take_inventory(const formats::ModelConfig& config, const Checkpoint& checkpoint) {
  Inventory out;
  std::set<std::string> used;
  std::array<int, 3> tuple{};
  std::size_t projection = 0;  // a routed expert's gate, up and down stand together
  formats::visit_linears(config, [&](const formats::LinearSpec& spec) {
    add_linear(checkpoint, spec, used, out);
    if (spec.role == LinearRole::kExpert) {
      tuple[projection] = stored_bits(checkpoint, spec.prefix);
      projection = (projection + 1) % 3;
      if (projection == 0) ++out.tuples[tuple];
    }
    return true;
  });
  for (const formats::VectorSpec& spec : formats::expected_vectors(config)) {
    const formats::TensorView& tensor = checkpoint.require(spec.name);
    used.insert(tensor.name);
    out.vectors.weights += spec.count;
    out.vectors.bytes += bytes_of(tensor);
  }
  for (const formats::TensorView* tensor : checkpoint.tensors()) {
    if (!used.contains(tensor->name)) out.unused_bytes += bytes_of(*tensor);
  }
  return out;
}

Json size_json(const RoleSize& size) {
  return {{"weights", size.weights}, {"bytes", size.bytes}, {"bits_per_weight", size.bits()}};
}

Json roles_json(const Inventory& inventory) {
  Json roles = Json::object();
  for (std::size_t i = 0; i < kRoles; ++i) {
    if (inventory.roles[i].weights > 0) {
      roles[formats::linear_role_name(static_cast<LinearRole>(i))] = size_json(inventory.roles[i]);
    }
  }
  roles["vectors"] = size_json(inventory.vectors);
  return roles;
}

Json expert_bits_json(const Inventory& inventory) {
  std::int64_t experts = 0;
  for (const auto& [bits, count] : inventory.tuples) experts += count;
  Json list = Json::array();
  for (const auto& [bits, count] : inventory.tuples) {
    list.push_back({{"gate", bits[0]},
                    {"up", bits[1]},
                    {"down", bits[2]},
                    {"dense", bits[0] == kDenseBits},
                    {"experts", count},
                    {"share", static_cast<double>(count) / static_cast<double>(experts)}});
  }
  return list;
}

}  // namespace fairway::cli
