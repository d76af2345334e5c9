// config.json and quantization_config.json against the tensors.
#include "quantize/stored_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "codec/packing.h"
#include "fairway/error.h"
#include "formats/exl3_storage.h"
#include "formats/json.h"
#include "formats/json_field.h"
#include "formats/mapped_file.h"

namespace fairway::quantize {
namespace {

namespace fs = std::filesystem;
using formats::JsonField;
using formats::printable;
using formats::TensorView;
using nlohmann::json;

constexpr std::size_t kMaxConfigBytes = 1u << 30;  // tensor_storage of the largest models is some hundred MB
constexpr int kPlainHeadBits = 16;

std::string short_text(const json& value) {
  return value.is_discarded() ? "missing" : printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

class ConfigCheck {
 public:
  ConfigCheck(const fs::path& dir, const StoredModules& modules, std::vector<std::string>& problems,
              std::vector<std::string>& notes)
      : dir_(dir), modules_(modules), problems_(problems), notes_(notes) {}

  void run() {
    const json* quantization = nullptr;
    json config;
    attempt(problems_, [&] {
      config = read("config.json");
      const JsonField root(config, path("config.json"));
      const JsonField found = root.at("quantization_config");
      found.object();
      quantization = &found.json();
      check_object(found);
    });
    if (!formats::is_present(dir_ / "quantization_config.json")) {
      notes_.emplace_back("there is no quantization_config.json; decoding needs nothing from it");
      return;
    }
    attempt(problems_, [&] {
      const json index = read("quantization_config.json");
      const JsonField root(index, path("quantization_config.json"));
      root.object();
      if (quantization != nullptr) compare(*quantization, index);
      check_storage(root.at("tensor_storage"));
    });
  }

 private:
  std::string path(const char* name) const { return (dir_ / name).string(); }
  json read(const char* name) const {
    return formats::parse_json(formats::read_text_file(dir_ / name, kMaxConfigBytes), path(name));
  }

  void check_object(const JsonField& object) {
    attempt(problems_, [&] {
      if (object.at("quant_method").string() != "exl3") {
        object.bad(fmt::format("quant_method is \"{}\", expected \"exl3\"",
                               printable(object.at("quant_method").string(), 60)));
      }
    });
    attempt(problems_, [&] { object.at("version").string(); });
    attempt(problems_, [&] { check_bits(object); });
    attempt(problems_, [&] { check_head(object.at("head_bits")); });
    attempt(problems_, [&] { check_codebook(object); });
    attempt(problems_, [&] {
      const auto scales = object.find("out_scales");
      if (!scales) return;
      const std::string& value = scales->string();
      if (value != "always" && value != "never" && value != "auto") {
        scales->bad(fmt::format("\"{}\", expected \"always\", \"never\" or \"auto\"", printable(value, 60)));
      }
    });
    attempt(problems_, [&] {
      const auto calibration = object.find("calibration");
      if (!calibration) return;
      for (const char* key : {"rows", "cols"}) calibration->at(key).integer(0, std::numeric_limits<int>::max());
    });
  }

  // "bits" leaves out the head; what else a writer budgets is its own business, so a difference is only noted.
  void check_bits(const JsonField& object) {
    const json& value = object.at("bits").json();
    if (!value.is_number() || value.get<double>() <= 0 || value.get<double>() > 16) {
      object.bad(fmt::format("bits is {}, expected a number from 1 to 8", short_text(value)));
    }
    double weights = 0, bits = 0;
    for (const auto& [prefix, module] : modules_) {
      if (!module.sound || !module.is_trellis() || prefix == "lm_head") continue;
      const auto& shape = module.find("trellis")->shape;
      const double count = static_cast<double>(shape[0]) * static_cast<double>(shape[1]) * codec::kTileWeights;
      weights += count;
      bits += count * module.bits();
    }
    const double mean = weights > 0 ? bits / weights : 0;
    if (std::abs(mean - value.get<double>()) > 0.05) {  // rounding, and padding that a writer may not count
      notes_.push_back(
          fmt::format("quantization_config.bits is {}, the coded linears without the head have {:.3f} on "
                      "average",
                      short_text(value), mean));
    }
  }

  void check_head(const JsonField& field) {
    const std::int64_t said = field.integer(1, kPlainHeadBits);
    const auto head = modules_.find("lm_head");
    if (head == modules_.end() || !head->second.sound) return;
    const int stored = head->second.is_trellis() ? head->second.bits() : kPlainHeadBits;
    if (said != stored) field.bad(fmt::format("{}, but lm_head has {} bits", said, stored));
  }

  void check_codebook(const JsonField& object) {
    const auto field = object.find("codebook");
    if (!field) {
      notes_.emplace_back("quantization_config names no codebook, as in early files");
      return;
    }
    for (const auto& [prefix, module] : modules_) {
      if (!module.is_trellis()) continue;
      const char* stored = codec::codebook_name(module.codebook());
      if (field->string() != stored) {
        field->bad(fmt::format("\"{}\", but \"{}\" has {}", printable(field->string(), 60), prefix, stored));
      }
      return;
    }
  }

  // Both files have the same object, but for tensor_storage.
  void compare(const json& config, const json& index) {
    const auto differ = [&](const std::string& key, const json& a, const json& b) {
      problems_.push_back(fmt::format("{}: {} is {}, but {} in quantization_config of config.json",
                                      path("quantization_config.json"), printable(key, 60), short_text(b),
                                      short_text(a)));
    };
    const json missing = json(json::value_t::discarded);
    for (const auto& [key, value] : config.items()) {
      const auto other = index.find(key);
      if (other == index.end() || *other != value) differ(key, value, other == index.end() ? missing : *other);
    }
    for (const auto& [key, value] : index.items()) {
      if (key != "tensor_storage" && !config.contains(key)) differ(key, missing, value);
    }
  }

  void check_storage(const JsonField& storage) {
    const auto& listed = storage.object();
    for (const auto& entry : listed) {
      const std::string& prefix = entry.first;
      const auto at = modules_.find(prefix);
      if (at == modules_.end()) {
        storage.bad(fmt::format("lists the module \"{}\", of which no tensor is stored", printable(prefix)));
      }
      attempt(problems_, [&] { check_entry(storage.at(prefix), prefix, at->second); });
    }
    std::size_t plain = 0;
    std::string first;
    for (const auto& [prefix, module] : modules_) {
      if (listed.contains(prefix)) continue;
      if (module.is_trellis()) {
        problems_.push_back(fmt::format("{}: tensor_storage does not list the coded linear \"{}\"",
                                        path("quantization_config.json"), printable(prefix)));
      } else if (plain++ == 0) {
        first = prefix;
      }
    }
    if (plain > 0) {  // the reference implementation's own writer leaves some out
      notes_.push_back(fmt::format("tensor_storage leaves out {} plain module{}, first \"{}\"", plain,
                                   plain == 1 ? "" : "s", printable(first)));
    }
  }

  void check_entry(const JsonField& entry, const std::string& prefix, const StoredModule& module) {
    const JsonField tensors = entry.at("stored_tensors");
    for (const auto& [name, unused] : tensors.object()) {
      const std::string part = prefix.empty() ? name : name.substr(std::min(name.size(), prefix.size() + 1));
      const TensorView* stored = formats::module_of(name) == prefix ? module.find(part) : nullptr;
      if (stored == nullptr) tensors.bad(fmt::format("lists \"{}\", which is not stored", printable(name)));
      const json expected = {{"shape", stored->shape},
                             {"n_bytes", stored->bytes.size()},
                             {"dtype", formats::torch_type_name(stored->type)}};
      const JsonField said = tensors.at(name);
      for (const auto& [key, value] : expected.items()) {
        if (said.at(key).json() != value) {
          said.bad(
              fmt::format("{} is {}, but {} in the file", key, short_text(said.at(key).json()), short_text(value)));
        }
      }
    }
    for (const auto& [part, tensor] : module.parts) {
      if (!tensors.object().contains(tensor->name)) {
        tensors.bad(fmt::format("does not list \"{}\"", printable(tensor->name)));
      }
    }
    if (module.sound && module.is_trellis()) check_coded(entry, module);
    if (!module.is_trellis() && entry.find("quant_format")) {
      entry.bad("has a quant_format, but the module has no trellis");
    }
  }

  static void check_coded(const JsonField& entry, const StoredModule& module) {
    const auto expect = [&](const std::string& key, const json& value) {
      const auto said = entry.find(key);
      if (!said || said->json() != value) {
        entry.bad(
            fmt::format("{} is {}, expected {}", key, said ? short_text(said->json()) : "missing", short_text(value)));
      }
    };
    expect("quant_format", "exl3");
    expect("bits_per_weight", module.bits());
    if (const char* flag = formats::codebook_flag(module.codebook())) {
      expect(fmt::format("{}_multiplier", flag), formats::codebook_multiplier(module.codebook()));
    }
  }

  const fs::path& dir_;
  const StoredModules& modules_;
  std::vector<std::string>& problems_;
  std::vector<std::string>& notes_;
};

}  // namespace

void check_quantization_config(const fs::path& dir, const StoredModules& modules, std::vector<std::string>& problems,
                               std::vector<std::string>& notes) {
  ConfigCheck(dir, modules, problems, notes).run();
}

}  // namespace fairway::quantize
