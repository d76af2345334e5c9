// fairway inspect: what a model directory holds, or one line per problem if it cannot be used.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/model_layout.h"
#include "formats/tokenizer.h"
#include "model/weights.h"

namespace fairway::cli {
namespace {

using formats::Checkpoint;
using formats::LinearRole;
using formats::ModelConfig;

constexpr std::size_t kRoles = static_cast<std::size_t>(LinearRole::kHead) + 1;
constexpr int kDenseBits = 0;  // marks a projection that is stored as plain floats

struct RoleSize {
  std::int64_t weights = 0, bytes = 0;
  double bits() const { return weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights); }
};

struct Inventory {
  std::array<RoleSize, kRoles> roles;
  RoleSize vectors;                                   // norms and router biases
  std::int64_t unused_bytes = 0;                      // tensors that the architecture does not have
  std::int64_t scale_elems = 0;                       // suh and svh, which are kept as fp32 in memory
  std::map<std::array<int, 3>, std::int64_t> tuples;  // gate, up, down bits -> routed experts
  RoleSize total() const {
    RoleSize sum = vectors;
    for (const RoleSize& role : roles) sum = {sum.weights + role.weights, sum.bytes + role.bytes};
    return sum;
  }
};

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
  bool present = false;
  for (const char* part : {".trellis", ".suh", ".svh", ".su", ".sv", ".mcg", ".mul1", ".bias", ".weight"}) {
    const formats::TensorView* tensor = checkpoint.find(spec.prefix + part);
    if (tensor == nullptr) continue;
    present = true;
    used.insert(tensor->name);
    role.bytes += bytes_of(*tensor);
    if (std::string_view(part) == ".trellis") out.scale_elems += 16 * (tensor->shape[0] + tensor->shape[1]);
  }
  if (present) role.weights += std::int64_t{spec.in} * spec.out;
}

Inventory take_inventory(const ModelConfig& config, const Checkpoint& checkpoint) {
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

std::int64_t cache_bytes_per_1000_tokens(const ModelConfig& config) {
  return 1000 * model::cache_row_elems(config) * config.num_hidden_layers * static_cast<std::int64_t>(sizeof(float));
}

Json architecture_json(const ModelConfig& config) {
  const bool mla = config.attention == formats::AttentionKind::kMla;
  Json json = {{"architecture", config.architecture_name},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.hidden_size},
               {"layers", config.num_hidden_layers},
               {"moe_layers", std::count(config.layer_is_moe.begin(), config.layer_is_moe.end(), true)},
               {"max_position_embeddings", config.max_position_embeddings},
               {"attention", mla ? "mla" : "gqa"},
               {"heads", config.num_attention_heads},
               {"kv_heads", config.num_key_value_heads}};
  if (mla) {
    json.update({{"q_lora_rank", config.q_lora_rank},
                 {"kv_lora_rank", config.kv_lora_rank},
                 {"qk_nope_head_dim", config.qk_nope_head_dim},
                 {"qk_rope_head_dim", config.qk_rope_head_dim},
                 {"v_head_dim", config.v_head_dim}});
  } else {
    json["head_dim"] = config.head_dim;
  }
  json.update({{"intermediate_size", config.intermediate_size},
               {"routed_experts", config.n_routed_experts},
               {"experts_per_token", config.num_experts_per_tok},
               {"moe_intermediate_size", config.moe_intermediate_size},
               {"shared_experts", config.n_shared_experts},
               {"router", config.router == formats::RouterKind::kSigmoid ? "sigmoid" : "softmax"}});
  return json;
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

Json tuples_json(const Inventory& inventory) {
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

Json tensors_json(const Checkpoint& checkpoint) {
  Json list = Json::array();
  for (const formats::TensorView* tensor : checkpoint.tensors()) {
    list.push_back({{"name", tensor->name},
                    {"type", formats::tensor_type_name(tensor->type)},
                    {"shape", tensor->shape},
                    {"bytes", bytes_of(*tensor)},
                    {"file", checkpoint.file_of(*tensor).filename().string()}});
  }
  return list;
}

Json document(const std::string& model, const ModelConfig& config, const Checkpoint& checkpoint, bool with_tensors) {
  const Inventory inventory = take_inventory(config, checkpoint);
  const std::int64_t cache = cache_bytes_per_1000_tokens(config);
  // Weights stay mapped; scale vectors exist a second time as fp32.
  const std::int64_t scales = inventory.scale_elems * static_cast<std::int64_t>(sizeof(float));
  Json json = {{"model", model}};
  json.update(architecture_json(config));
  json["tensors"] = checkpoint.tensors().size();
  json["weights"] = inventory.total().weights;
  json["bits_per_weight"] = inventory.total().bits();
  json["roles"] = roles_json(inventory);
  json["unused_tensor_bytes"] = inventory.unused_bytes;
  json["expert_bit_tuples"] = tuples_json(inventory);
  json["memory"] = {{"file_bytes", checkpoint.file_bytes()},
                    {"scale_bytes", scales},
                    {"kv_cache_bytes_per_1000_tokens", cache},
                    {"estimated_bytes_at_1000_tokens", checkpoint.file_bytes() + scales + cache}};
  if (with_tensors) json["tensor_list"] = tensors_json(checkpoint);
  return json;
}

std::string size_line(const std::string& name, const Json& size) {
  return fmt::format("  {:<14} {:>9} weights {:>9}  {:6.2f} bits/weight\n", name,
                     human_count(size["weights"].get<double>()), human_bytes(size["bytes"].get<double>()),
                     size["bits_per_weight"].get<double>());
}

std::string tuple_line(const Json& tuple) {
  constexpr double kBarWidth = 40;
  const double share = tuple["share"].get<double>();
  const std::string bits = tuple["dense"].get<bool>() ? "dense"
                                                      : fmt::format("{},{},{}", tuple["gate"].get<int>(),
                                                                    tuple["up"].get<int>(), tuple["down"].get<int>());
  const std::string bar(static_cast<std::size_t>(std::max(1.0, share * kBarWidth)), '#');
  return fmt::format("  {:<7} {:>6} experts {:5.1f}% {}\n", bits, tuple["experts"].get<std::int64_t>(), 100 * share,
                     bar);
}

std::string tensor_line(const Json& tensor) {
  return fmt::format("  {:<60} {:<5} {:<20} {:>10}  {}\n", tensor["name"].get<std::string>(),
                     tensor["type"].get<std::string>(), tensor["shape"].dump(),
                     human_bytes(tensor["bytes"].get<double>()), tensor["file"].get<std::string>());
}

std::string text_of(const Json& json) {
  const auto number = [&](const char* key) { return json[key].get<std::int64_t>(); };
  std::string text =
      fmt::format("{}\n  {}, {} layers, hidden size {}, vocabulary {}, {} positions\n",
                  json["model"].get<std::string>(), json["architecture"].get<std::string>(), number("layers"),
                  number("hidden_size"), number("vocab_size"), number("max_position_embeddings"));
  text += fmt::format(
      "  {} attention, {} heads; layers with experts: {}; {} routed experts of {}, {} per token ({}), {} shared\n",
      json["attention"] == "mla" ? "MLA" : "GQA", number("heads"), number("moe_layers"), number("routed_experts"),
      number("moe_intermediate_size"), number("experts_per_token"), json["router"].get<std::string>(),
      number("shared_experts"));
  text += fmt::format("\nsizes ({} tensors)\n", number("tensors"));
  RoleSize total;
  for (const auto& [name, size] : json["roles"].items()) {
    text += size_line(name, size);
    total.bytes += size["bytes"].get<std::int64_t>();
  }
  total.weights = number("weights");
  text += size_line("total", size_json(total));
  if (number("unused_tensor_bytes") > 0) {
    text += fmt::format("  {} in tensors that this architecture does not use\n",
                        human_bytes(static_cast<double>(number("unused_tensor_bytes"))));
  }
  text += "\nbits of routed experts (gate,up,down)\n";
  for (const Json& tuple : json["expert_bit_tuples"]) text += tuple_line(tuple);
  const Json& memory = json["memory"];
  text += fmt::format("\nmemory\n  files {}, cache {} per 1000 tokens, about {} in use at 1000 tokens\n",
                      human_bytes(memory["file_bytes"].get<double>()),
                      human_bytes(memory["kv_cache_bytes_per_1000_tokens"].get<double>()),
                      human_bytes(memory["estimated_bytes_at_1000_tokens"].get<double>()));
  if (json.contains("tensor_list")) {
    text += "\ntensors\n";
    for (const Json& tensor : json["tensor_list"]) text += tensor_line(tensor);
  }
  return text;
}

// Everything that would keep the directory from running.
std::vector<std::string> find_problems(const std::string& model) {
  std::vector<std::string> problems = formats::check_model_dir(model);
  if (!std::filesystem::is_directory(model)) return problems;
  try {
    formats::Tokenizer::load(model);
  } catch (const Error& e) {
    problems.emplace_back(e.what());
  }
  return problems;
}

int inspect(const std::string& model, bool with_tensors, bool json) {
  const std::vector<std::string> problems = find_problems(model);
  if (!problems.empty()) {
    for (const std::string& problem : problems) fmt::print(stderr, "fairway: error: {}\n", problem);
    if (json) print_json({{"model", model}, {"problems", problems}});
    return kExitBadInput;
  }
  const ModelConfig config = formats::load_model_config(model);
  const Checkpoint checkpoint = Checkpoint::open(model);
  const Json result = document(model, config, checkpoint, with_tensors);
  if (json) {
    print_json(result);
  } else {
    print_text(text_of(result));
  }
  return kExitOk;
}

struct InspectOptions {
  std::string model;
  bool tensors = false;
};

}  // namespace

void add_inspect_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      add_command(app, call, "inspect", "Show a model's architecture, sizes and bit widths, or what is wrong with it",
                  "fairway inspect --model models/books-moe");
  add_model_option(*command, options->model);
  command->add_flag("--tensors", options->tensors, "List every tensor");
  command->callback([options, &call] {
    call.action = [options, &call] { return inspect(options->model, options->tensors, call.json); };
  });
}

}  // namespace fairway::cli
