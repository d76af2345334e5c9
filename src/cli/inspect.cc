// fairway inspect: what a model directory holds, or one line per problem if it cannot be used.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "cli/cli.h"
#include "cli/inventory.h"
#include "cli/options.h"
#include "cli/output.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/tokenizer.h"
#include "model/weights.h"

namespace fairway::cli {
namespace {

using formats::Checkpoint;
using formats::ModelConfig;

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

Json tensors_json(const Checkpoint& checkpoint) {
  Json list = Json::array();
  for (const formats::TensorView* tensor : checkpoint.tensors()) {
    list.push_back({{"name", tensor->name},
                    {"type", formats::tensor_type_name(tensor->type)},
                    {"shape", tensor->shape},
                    {"bytes", tensor->bytes.size()},
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
  json["expert_bit_tuples"] = expert_bits_json(inventory);
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
