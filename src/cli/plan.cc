// Reading and writing plans.
#include "cli/plan.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>

#include "formats/yaml_error.h"

namespace fairway::cli {
namespace {

constexpr const char* kSchema = "fairway-autotune-plan-1";

// Reads one file; every failure says where.
class PlanReader {
 public:
  explicit PlanReader(const std::string& source) : source_(source) {}

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw formats::yaml_error(source_, mark, what);
  }

  // The keys of a map, each known and there once.
  void check_keys(const YAML::Node& map, const std::set<std::string>& known, const std::string& where) const {
    if (!map.IsMap()) fail(map.Mark(), fmt::format("{} is not a map of keys", where));
    std::set<std::string> seen;
    for (const auto& pair : map) {
      if (!pair.first.IsScalar()) fail(pair.first.Mark(), fmt::format("a key of {} is not a word", where));
      const std::string key = pair.first.Scalar();
      if (!known.contains(key)) {
        fail(pair.first.Mark(),
             fmt::format("{} has the unknown key '{}'; known are {}", where, key, fmt::join(known, ", ")));
      }
      if (!seen.insert(key).second) fail(pair.first.Mark(), fmt::format("{} has the key '{}' twice", where, key));
    }
  }

  std::string text(const YAML::Node& node, const std::string& key) const {
    if (!node.IsScalar() || node.Scalar().empty()) fail(node.Mark(), fmt::format("'{}' is not a text", key));
    return node.Scalar();
  }

  double number(const YAML::Node& node, const std::string& key, double low, double high) const {
    double value = 0;
    if (!node.IsScalar() || !YAML::convert<double>::decode(node, value) || !(value >= low && value <= high)) {
      fail(node.Mark(), fmt::format("'{}' is {}, expected a number from {} to {}", key,
                                    node.IsScalar() ? "'" + node.Scalar() + "'" : "no single value", low, high));
    }
    return value;
  }

  int integer(const YAML::Node& node, const std::string& key, int low, int high) const {
    const double value = number(node, key, low, high);
    if (value != static_cast<int>(value)) fail(node.Mark(), fmt::format("'{}' is {}, not an integer", key, value));
    return static_cast<int>(value);
  }

  TuneTask task(const YAML::Node& node, std::size_t index) const {
    const std::string where = fmt::format("tasks[{}]", index);
    check_keys(node,
               {"name", "model", "text", "geometry", "bits", "codebook", "batch_sizes", "threads", "iterations",
                "warmup", "budget", "verify"},
               where);
    TuneTask task;
    if (!node["name"]) fail(node.Mark(), fmt::format("{} has no 'name'", where));
    task.name = text(node["name"], "name");
    const auto read = [&](const char* key, std::string& target) {
      if (node[key]) target = text(node[key], key);
    };
    read("model", task.layers.model);
    read("text", task.text);
    read("geometry", task.layers.geometry);
    read("bits", task.layers.bits);
    read("codebook", task.layers.codebook);
    if (!node["batch_sizes"] || !node["batch_sizes"].IsSequence() || node["batch_sizes"].size() == 0) {
      fail(node.Mark(), fmt::format("{} needs 'batch_sizes', a list of numbers", where));
    }
    for (const YAML::Node& size : node["batch_sizes"])
      task.batch_sizes.push_back(integer(size, "batch_sizes", 1, 65536));
    if (node["threads"]) task.threads = integer(node["threads"], "threads", 0, 4096);
    if (node["iterations"]) task.iterations = integer(node["iterations"], "iterations", 1, 1000000);
    if (node["warmup"]) task.warmup = integer(node["warmup"], "warmup", 0, 1000000);
    if (node["budget"]) task.budget_seconds = number(node["budget"], "budget", 0.001, 1e6);
    if (node["verify"]) task.verify = command(node["verify"], where);
    check_layers(task, node, where);
    return task;
  }

  std::vector<TuneTask> plan(const YAML::Node& root) const {
    check_keys(root, {"schema", "tasks"}, "the plan");
    if (!root["schema"] || !root["schema"].IsScalar() || root["schema"].Scalar() != kSchema) {
      fail(root.Mark(), fmt::format("'schema' is not {}", kSchema));
    }
    if (!root["tasks"] || !root["tasks"].IsSequence() || root["tasks"].size() == 0) {
      fail(root.Mark(), "'tasks' is not a list of tasks");
    }
    std::vector<TuneTask> tasks;
    for (const YAML::Node& node : root["tasks"]) tasks.push_back(task(node, tasks.size()));
    return tasks;
  }

 private:
  std::vector<std::string> command(const YAML::Node& node, const std::string& where) const {
    if (!node.IsSequence()) {
      fail(node.Mark(), fmt::format("'verify' of {} is not a list; write the program and each argument as an item, no "
                                    "line for a shell",
                                    where));
    }
    std::vector<std::string> command;
    for (const YAML::Node& item : node) {
      if (!item.IsScalar()) fail(item.Mark(), fmt::format("an argument in 'verify' of {} is not a text", where));
      command.push_back(item.Scalar());
    }
    const std::string problem = lint_command(command);
    if (!problem.empty()) fail(node.Mark(), fmt::format("'verify' of {}: {}", where, problem));
    return command;
  }

  void check_layers(const TuneTask& task, const YAML::Node& node, const std::string& where) const {
    const std::set<std::string> codebooks = {"mul1", "mcg", "3inst"};
    if (!codebooks.contains(task.layers.codebook)) {
      fail(node["codebook"].Mark(),
           fmt::format("'codebook' is '{}', expected mul1, mcg or 3inst", task.layers.codebook));
    }
    try {
      check_layer_options(task.layers);
    } catch (const Error& e) {
      fail(node.Mark(), fmt::format("{}: {}", where, e.what()));
    }
  }

  const std::string& source_;
};

}  // namespace

std::vector<TuneTask> parse_plan(const std::string& text, const std::string& source) {
  const PlanReader reader(source);
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& e) {
    reader.fail(e.mark, fmt::format("not YAML: {}", e.msg));
  }
  return reader.plan(root);
}

std::vector<TuneTask> read_plan(const std::string& path) {
  return parse_plan(read_file(path, "--plan"), path);
}

std::string plan_text(const std::vector<TuneTask>& tasks) {
  YAML::Emitter out;
  out << YAML::Comment("A plan of `fairway autotune`; run it with `fairway autotune --plan FILE`.") << YAML::Newline;
  out << YAML::BeginMap << YAML::Key << "schema" << YAML::Value << kSchema;
  out << YAML::Key << "tasks" << YAML::Value << YAML::BeginSeq;
  for (const TuneTask& task : tasks) {
    const auto put = [&](const char* key, const std::string& value) {
      if (!value.empty()) out << YAML::Key << key << YAML::Value << value;
    };
    out << YAML::BeginMap;
    put("name", task.name);
    put("model", task.layers.model);
    put("text", task.text);
    put("geometry", task.layers.geometry);
    if (!task.layers.geometry.empty()) {
      put("bits", task.layers.bits);
      put("codebook", task.layers.codebook);
    }
    out << YAML::Key << "batch_sizes" << YAML::Value << YAML::Flow << task.batch_sizes;
    out << YAML::Key << "threads" << YAML::Value << task.threads;
    out << YAML::Key << "iterations" << YAML::Value << task.iterations;
    out << YAML::Key << "warmup" << YAML::Value << task.warmup;
    out << YAML::Key << "budget" << YAML::Value << task.budget_seconds;
    if (!task.verify.empty()) out << YAML::Key << "verify" << YAML::Value << YAML::Flow << task.verify;
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace fairway::cli
