// Reading, writing and checking sensitivities.
#include "quantize/sensitivity_file.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "codec/trellis.h"
#include "fairway/error.h"
#include "formats/json.h"
#include "formats/json_field.h"

namespace fairway::quantize {
namespace {

using formats::JsonField;
using formats::LinearRole;

constexpr const char* kSchema = "fairway-sensitivity-1";
constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxLinears = 200'000;                 // 61 layers of 384 experts have 70,000
constexpr std::int64_t kMaxBytes = std::int64_t{1} << 44;    // of a model; sums of these and of weights * 8 fit int64
constexpr std::int64_t kMaxWeights = std::int64_t{1} << 36;  // of a matrix
constexpr int kMaxIndex = 65535;                             // layers and experts
constexpr std::int64_t kBlock = std::int64_t{codec::kHadamardDim} * codec::kHadamardDim;

class Checker {
 public:
  explicit Checker(const std::string& source) : source_(source) {}

  void check(const LinearSensitivity& linear) {
    if (linear.prefix.empty()) fail(linear, "the module key is empty");
    if (!seen_.insert(linear.prefix).second) fail(linear, "is there twice");
    check_range(linear, "layer", linear.layer, -1, kMaxIndex);
    check_range(linear, "expert", linear.expert, -1, kMaxIndex);
    check_range(linear, "weights", linear.weights, kBlock, kMaxWeights);
    check_range(linear, "side_bytes", linear.side_bytes, 0, kMaxBytes);
    if (linear.weights % kBlock != 0) {
      fail(linear, fmt::format("weights is {}, expected a multiple of {}", linear.weights, kBlock));
    }
    if (linear.layer >= 0 && !linear.prefix.starts_with(formats::layer_prefix(linear.layer))) {
      fail(linear, fmt::format("layer is {}, which its module key does not begin with", linear.layer));
    }
    check_role(linear);
    check_losses(linear);
  }

  void check_complete() const {
    for (const auto& [expert, matrices] : experts_) {
      if (matrices == 3) continue;
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: expert {} of layer {} has {} of the three matrices gate_proj, up_proj and down_proj",
                              source_, expert.second, expert.first, matrices));
    }
  }

 private:
  [[noreturn]] void fail(const LinearSensitivity& linear, const std::string& what) const {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: {}: {}", source_, formats::printable(linear.prefix), what));
  }

  void check_range(const LinearSensitivity& linear, const char* key, std::int64_t value, std::int64_t low,
                   std::int64_t high) const {
    if (value < low || value > high) fail(linear, fmt::format("{} is {}, expected {} to {}", key, value, low, high));
  }

  void check_role(const LinearSensitivity& linear) {
    if (linear.role == LinearRole::kEmbedding || linear.role == LinearRole::kRouter) {
      fail(linear, fmt::format("role is {}, which is never coded", formats::linear_role_name(linear.role)));
    }
    if (linear.role == LinearRole::kHead && std::exchange(head_, true)) fail(linear, "is a second head");
    if ((linear.role == LinearRole::kExpert) != (linear.expert >= 0)) {
      fail(linear, fmt::format("role is {} and expert is {}; routed experts, and only they, have a number",
                               formats::linear_role_name(linear.role), linear.expert));
    }
    if (linear.role != LinearRole::kExpert) return;
    if (linear.layer < 0) fail(linear, "layer is -1, expected the layer of the routed expert");
    const std::string module = fmt::format("{}mlp.experts.{}.", formats::layer_prefix(linear.layer), linear.expert);
    bool known = false;
    for (const char* leaf : {"gate_proj", "up_proj", "down_proj"}) known = known || linear.prefix == module + leaf;
    if (!known) fail(linear, fmt::format("is not {}gate_proj, up_proj or down_proj", module));
    ++experts_[{linear.layer, linear.expert}];
  }

  void check_losses(const LinearSensitivity& linear) const {
    for (std::size_t k = 1; k <= kMaxBits; ++k) {
      const double loss = linear.loss[k];
      if (!std::isfinite(loss) || loss <= 0) {
        fail(linear, fmt::format("the loss at {} bits is {}, expected a positive number", k, loss));
      }
      if (k > 1 && loss > linear.loss[k - 1]) {
        fail(linear,
             fmt::format("the loss at {} bits is {}, more than {} at {} bits", k, loss, linear.loss[k - 1], k - 1));
      }
    }
  }

  const std::string& source_;
  std::set<std::string_view> seen_;
  std::map<std::pair<int, int>, int> experts_;  // (layer, expert) -> matrices
  bool head_ = false;
};

// `field` has exactly these keys.
void check_keys(const JsonField& field, const std::set<std::string>& known) {
  for (const auto& [key, value] : field.object()) {
    if (!known.contains(key)) {
      field.bad(fmt::format("unknown key \"{}\"; known are {}", formats::printable(key), fmt::join(known, ", ")));
    }
  }
  for (const std::string& key : known) field.at(key);
}

LinearRole role_of(const JsonField& field) {
  constexpr std::array kRoles = {LinearRole::kAttention, LinearRole::kDenseMlp, LinearRole::kSharedExpert,
                                 LinearRole::kExpert, LinearRole::kHead};
  std::vector<std::string> names;
  for (const LinearRole role : kRoles) {
    if (field.string() == formats::linear_role_name(role)) return role;
    names.emplace_back(formats::linear_role_name(role));
  }
  field.bad(fmt::format("\"{}\", expected {}", formats::printable(field.string()), fmt::join(names, ", ")));
}

LinearSensitivity read_linear(const JsonField& field) {
  check_keys(field, {"prefix", "role", "layer", "expert", "weights", "side_bytes", "loss"});
  LinearSensitivity linear;
  linear.prefix = field.at("prefix").string();
  linear.role = role_of(field.at("role"));
  linear.layer = static_cast<int>(field.at("layer").integer(-1, kMaxIndex));
  linear.expert = static_cast<int>(field.at("expert").integer(-1, kMaxIndex));
  linear.weights = field.at("weights").integer(kBlock, kMaxWeights);
  linear.side_bytes = field.at("side_bytes").integer(0, kMaxBytes);
  const JsonField losses = field.at("loss");
  if (losses.array_size() != kMaxBits) {
    losses.bad(fmt::format("{} numbers, expected {}, for 1 to {} bits", losses.array_size(), kMaxBits, kMaxBits));
  }
  for (std::size_t k = 0; k < kMaxBits; ++k) {
    const JsonField loss = losses.element(k);
    if (!loss.json().is_number()) loss.bad("expected a number");
    linear.loss[k + 1] = loss.json().get<double>();
  }
  return linear;
}

}  // namespace

void check_sensitivity(const ModelSensitivity& sensitivity, const std::string& source) {
  if (sensitivity.fixed_bytes < 0 || sensitivity.fixed_bytes > kMaxBytes) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: fixed_bytes is {}, expected 0 to {}", source, sensitivity.fixed_bytes, kMaxBytes));
  }
  if (sensitivity.linears.empty() || sensitivity.linears.size() > kMaxLinears) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: linears has {} matrices, expected 1 to {}", source,
                                                  sensitivity.linears.size(), kMaxLinears));
  }
  Checker checker(source);
  std::int64_t weights = 0, side_bytes = 0;
  for (const LinearSensitivity& linear : sensitivity.linears) {
    checker.check(linear);
    weights += linear.weights;
    side_bytes += linear.side_bytes;
    if (weights > kMaxBytes || side_bytes > kMaxBytes) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: more than {} weights or bytes of scale vectors", source, kMaxBytes));
    }
  }
  checker.check_complete();
}

std::string sensitivity_text(const ModelSensitivity& sensitivity) {
  using Json = nlohmann::ordered_json;
  constexpr auto kReplace = Json::error_handler_t::replace;
  const auto quoted = [](const std::string& text) { return Json(text).dump(-1, ' ', false, kReplace); };
  std::string text = fmt::format("{{\n\"schema\": \"{}\",\n\"model\": {},\n\"fixed_bytes\": {},\n\"linears\": [",
                                 kSchema, quoted(sensitivity.model), sensitivity.fixed_bytes);
  const char* separator = "\n";
  for (const LinearSensitivity& linear : sensitivity.linears) {
    const Json json = {{"prefix", linear.prefix},
                       {"role", formats::linear_role_name(linear.role)},
                       {"layer", linear.layer},
                       {"expert", linear.expert},
                       {"weights", linear.weights},
                       {"side_bytes", linear.side_bytes},
                       {"loss", std::vector<double>(linear.loss.begin() + 1, linear.loss.end())}};
    text += std::exchange(separator, ",\n") + json.dump(-1, ' ', false, kReplace);
  }
  return text + "\n]\n}\n";
}

ModelSensitivity parse_sensitivity(const std::string& text, const std::string& source) {
  const nlohmann::json document =
      formats::parse_json(text, source, {.max_depth = 4, .max_bytes = kMaxFileBytes, .reject_duplicate_keys = true});
  const JsonField root(document, source);
  check_keys(root, {"schema", "model", "fixed_bytes", "linears"});
  if (root.at("schema").string() != kSchema) root.at("schema").bad(fmt::format("expected \"{}\"", kSchema));
  ModelSensitivity sensitivity;
  sensitivity.model = root.at("model").string();
  sensitivity.fixed_bytes = root.at("fixed_bytes").integer(0, kMaxBytes);
  const JsonField linears = root.at("linears");
  const std::size_t count = linears.array_size();
  if (count > kMaxLinears) linears.bad(fmt::format("{} matrices, expected at most {}", count, kMaxLinears));
  for (std::size_t i = 0; i < count; ++i) sensitivity.linears.push_back(read_linear(linears.element(i)));
  check_sensitivity(sensitivity, source);
  return sensitivity;
}

}  // namespace fairway::quantize
