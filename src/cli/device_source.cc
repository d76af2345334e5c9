// Loading or making the model.
#include "cli/device_source.h"

#include "cli/signals.h"
#include "cli/synth.h"
#include "formats/config.h"
#include "model/early_start.h"
#include "model/model.h"

namespace fairway::cli {

using model::DeviceModel;

void add_random_model_options(CLI::App& command, DeviceSource& source) {
  command
      .add_option("--config", source.config, "config.json of a model whose weights are made at random on the device")
      ->type_name("FILE");
  command.add_option("--attention-bits", source.attention_bits, "With --config: of attention and dense layers")
      ->check(number_in(1, 8))
      ->capture_default_str();
  command.add_option("--head-bits", source.head_bits, "With --config: of the head")
      ->check(number_in(1, 8))
      ->capture_default_str();
}

void check_device_source(const DeviceSource& source) {
  if (source.model.empty() != source.config.empty()) return;
  throw Error(ErrorKind::kUsage, "give one of --model DIR and --config FILE (with random weights made on the device)");
}

namespace {

DeviceModel load_device_model(const std::string& directory, model::DeviceModelOptions options) {
  Progress copying("copying to the device");
  options.progress = [&](std::int64_t done, std::int64_t total) {
    throw_if_cancelled("copying the model to the device");
    copying.update(total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0);
  };
  const model::EarlyStart early(directory, options.device);
  return DeviceModel::load(model::Model::load(directory), options);
}

}  // namespace

DeviceModel make_device_model(const DeviceSource& source, const model::DeviceModelOptions& options) {
  if (!source.model.empty()) return load_device_model(source.model, options);
  const formats::ModelConfig config = formats::parse_model_config(read_file(source.config, "--config"), source.config);
  model::RandomWeights weights;
  weights.expert_bits = parse_bit_tuples(source.bits);
  weights.attention_bits = weights.dense_bits = source.attention_bits;
  weights.head_bits = source.head_bits;
  weights.codebook = codebook_named(source.codebook);
  return DeviceModel::random(config, weights, options);
}

Json device_source_json(const DeviceSource& source) {
  if (!source.model.empty()) return {{"directory", source.model}};
  return {{"config", source.config},       {"expert_bits", source.bits},  {"attention_bits", source.attention_bits},
          {"head_bits", source.head_bits}, {"codebook", source.codebook}, {"weights", "random"}};
}

}  // namespace fairway::cli
