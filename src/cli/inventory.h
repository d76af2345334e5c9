// What the tensors of a model directory weigh: by role, and what of it is trellis-coded.
#pragma once

#include <array>
#include <cstdint>
#include <map>

#include "cli/output.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/model_layout.h"

namespace fairway::cli {

constexpr std::size_t kRoles = static_cast<std::size_t>(formats::LinearRole::kHead) + 1;
constexpr int kDenseBits = 0;  // marks a projection that is stored as plain floats

// `weights` counts the model's own weights, without the padding that is stored with them.
struct RoleSize {
  std::int64_t weights = 0, bytes = 0;
  double bits() const { return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights); }
};

// Of trellis-coded matrices alone.
struct CodedSize {
  std::int64_t matrices = 0, weights = 0;
  std::int64_t padded_weights = 0;  // with the padding to blocks of 128, which is coded too
  std::int64_t code_bytes = 0;      // trellis tensors
  std::int64_t side_bytes = 0;      // scale vectors, biases and codebook flags
  CodedSize& operator+=(const CodedSize& other);
  RoleSize codes() const { return {weights, code_bytes}; }
  RoleSize all() const { return {weights, code_bytes + side_bytes}; }
  RoleSize padded_codes() const { return {padded_weights, code_bytes}; }
};

struct Inventory {
  std::array<RoleSize, kRoles> roles;
  std::array<CodedSize, kRoles> coded;
  RoleSize vectors;                                   // norms and router biases
  std::int64_t unused_bytes = 0;                      // tensors that the architecture does not have
  std::int64_t scale_elems = 0;                       // suh and svh, which are kept as fp32 in memory
  std::map<std::array<int, 3>, std::int64_t> tuples;  // gate, up, down bits -> routed experts
  RoleSize total() const;
  CodedSize coded_total(bool with_head) const;
};

// Error(kBadInput) if a vector that the configuration names is missing.
Inventory take_inventory(const formats::ModelConfig& config, const formats::Checkpoint& checkpoint);

Json size_json(const RoleSize& size);               // "weights", "bytes", "bits_per_weight"
Json roles_json(const Inventory& inventory);        // role -> size_json, and "vectors"
Json expert_bits_json(const Inventory& inventory);  // per bit tuple of routed experts: "gate", ..., "experts", "share"

}  // namespace fairway::cli
