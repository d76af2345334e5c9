// Assembly: the finished directory holds what it was given, always in the same bytes, and never half of it.
#include "quantize/assemble.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fairway/error.h"
#include "formats/checkpoint.h"
#include "quantize/destination.h"
#include "quantize/editable_file.h"
#include "quantize/tiny_job.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;
using formats::Architecture;
using formats::Checkpoint;
using formats::TensorType;
using quantize::PartStore;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

template <typename Step>
std::string error_of(ErrorKind kind, const Step& step) {
  try {
    step();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

// What an assembly leaves beside OUT.
bool left_something(const TinyJob& job) {
  return fs::exists(job.out) || fs::exists(job.dir / "out.assembling");
}

void change_source(const TinyJob& job, const std::function<void(EditableFile&)>& change) {
  EditableFile file(job.source / "model.safetensors");
  change(file);
  file.write();
}

class Assemble : public ::testing::Test {
 protected:
  TempDir dir_;
};

TEST_F(Assemble, HoldsTheMatricesAndLoads) {
  for (const Architecture architecture :
       {Architecture::kGlm4MoeLite, Architecture::kDeepseekV3, Architecture::kQwen3Moe}) {
    TinyJob job(dir_.path() / std::to_string(static_cast<int>(architecture)), {.architecture = architecture});
    const quantize::AssemblyReport report = job.assemble();
    EXPECT_FALSE(report.was_complete);
    EXPECT_THAT(formats::check_model_dir(job.out), IsEmpty());
    EXPECT_FALSE(fs::exists(job.dir / "out.assembling"));

    const PartStore parts(job.dir / "out.partial", job.fingerprint, false);
    const Checkpoint checkpoint = Checkpoint::open(job.out);
    for (const std::string& prefix : job.prefixes) {
      const auto part = parts.load(prefix);
      const auto& trellis = checkpoint.require(prefix + ".trellis");
      EXPECT_TRUE(std::equal(trellis.bytes.begin(), trellis.bytes.end(), part.trellis.begin(), part.trellis.end()));
      EXPECT_EQ(checkpoint.require(prefix + ".suh").bytes.size(), 2 * part.suh.size());
      EXPECT_NE(checkpoint.find(prefix + ".mul1"), nullptr);
      EXPECT_EQ(checkpoint.find(prefix + ".weight"), nullptr);
    }
    std::int64_t bytes = 0;
    for (const auto& [name, content] : contents(job.out)) bytes += std::ssize(content);
    EXPECT_EQ(report.bytes, bytes);
  }
}

TEST_F(Assemble, PlainTensorsHaveTheFormatsTypesAndTheSourcesValues) {
  TinyJob job(dir_.path());
  change_source(job, [](EditableFile& file) {
    narrow(file.at("model.embed_tokens.weight"));
    narrow(file.at("model.layers.1.input_layernorm.weight"));
    narrow(file.at("model.layers.1.mlp.gate.weight"));
  });
  job.assemble();
  const Checkpoint from = Checkpoint::open(job.source), to = Checkpoint::open(job.out);
  const auto type = [&](const char* name) { return to.require(name).type; };
  EXPECT_EQ(type("model.embed_tokens.weight"), TensorType::kBf16);
  EXPECT_EQ(type("model.layers.1.input_layernorm.weight"), TensorType::kBf16);
  EXPECT_EQ(type("model.layers.1.mlp.gate.weight"), TensorType::kF16);
  EXPECT_EQ(type("model.layers.1.mlp.gate.e_score_correction_bias"), TensorType::kF16);
  EXPECT_EQ(type("model.layers.0.self_attn.kv_b_proj.weight"), TensorType::kF16);
  EXPECT_EQ(type("model.norm.weight"), TensorType::kF16);  // was F32
  // The tiny model's plain values are halves, so nothing may be lost.
  for (const char* name : {"model.norm.weight", "model.layers.1.mlp.gate.e_score_correction_bias",
                           "model.layers.1.input_layernorm.weight"}) {
    EXPECT_EQ(from.read_vector(name, -1), to.read_vector(name, -1)) << name;
  }
}

// exllamav3 does not know Glm4MoeLiteForCausalLM.
TEST_F(Assemble, Glm4MoeLiteIsNamedAsTheDeepseekV3ThatComputesTheSame) {
  TinyJob job(dir_.path(), {.architecture = Architecture::kGlm4MoeLite});
  job.assemble();
  const formats::ModelConfig source = formats::load_model_config(job.source);
  ASSERT_EQ(source.architecture, Architecture::kGlm4MoeLite);
  formats::ModelConfig out = formats::load_model_config(job.out);
  EXPECT_EQ(out.architecture, Architecture::kDeepseekV3);
  out.architecture = source.architecture;
  out.architecture_name = source.architecture_name;
  EXPECT_TRUE(out == source);
}

TEST_F(Assemble, Glm4MoeLiteKeepsItsNameWhereDeepseekV3CannotSayTheSame) {
  TinyJob job(dir_.path(), {.architecture = Architecture::kGlm4MoeLite});
  const fs::path path = job.source / "config.json";
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(std::ifstream(path));
  config["rope_interleave"] = false;
  std::ofstream(path) << config;
  job.assemble();
  EXPECT_EQ(formats::load_model_config(job.out).architecture, Architecture::kGlm4MoeLite);
}

TEST_F(Assemble, ConfigurationKeepsItsKeysAndGainsTheQuantization) {
  TinyJob job(dir_.path(), {.architecture = Architecture::kDeepseekV3});
  job.assemble();
  const auto parse = [](const fs::path& path) { return nlohmann::ordered_json::parse(std::ifstream(path)); };
  nlohmann::ordered_json config = parse(job.out / "config.json");
  const nlohmann::ordered_json expected = {{"quant_method", "exl3"},
                                           {"version", "fairway-1.2.3"},
                                           {"bits", 3.14},
                                           {"head_bits", 6},
                                           {"calibration", {{"rows", 16}, {"cols", 128}}},
                                           {"out_scales", "always"},
                                           {"codebook", "mul1"}};
  EXPECT_EQ(config["quantization_config"], expected);
  config.erase("quantization_config");
  EXPECT_EQ(config, parse(job.source / "config.json"));

  nlohmann::ordered_json index = parse(job.out / "quantization_config.json");
  const nlohmann::ordered_json storage = index["tensor_storage"];
  index.erase("tensor_storage");
  EXPECT_EQ(index, expected);
  std::size_t stored = 0;
  for (const auto& [module, entry] : storage.items()) stored += entry["stored_tensors"].size();
  const Checkpoint checkpoint = Checkpoint::open(job.out);
  EXPECT_EQ(stored, checkpoint.tensors().size());
  EXPECT_EQ(storage["lm_head"]["bits_per_weight"], 6);
  EXPECT_EQ(storage["lm_head"]["mul1_multiplier"], 0x83DCD12Du);

  EXPECT_EQ(contents(job.out)["tokenizer.json"], contents(job.source)["tokenizer.json"]);
  const nlohmann::ordered_json manifest = parse(job.out / "fairway-manifest.json");
  EXPECT_EQ(manifest["options"], job.facts.options);
  EXPECT_EQ(manifest["widths"]["lm_head"], 6);
  EXPECT_EQ(manifest["files"].size() + 1, contents(job.out).size());
}

TEST_F(Assemble, SameInputsGiveTheSameBytes) {
  TinyJob one(dir_.path() / "one"), two(dir_.path() / "two");
  one.assemble();
  PartStore parts(two.dir / "elsewhere", two.fingerprint, false);
  two.fill(parts, /*backwards=*/true);
  quantize::assemble(two.source, parts, two.prefixes, two.facts, two.out, false, {}, nullptr);
  EXPECT_EQ(contents(one.out), contents(two.out));
}

TEST_F(Assemble, Fp8SourceIsScaledAndItsConfigurationKept) {
  TinyJob job(dir_.path());
  const std::string name = "model.layers.0.self_attn.kv_b_proj.weight";
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(std::ifstream(job.source / "config.json"));
  const nlohmann::ordered_json fp8 = {{"quant_method", "fp8"}, {"weight_block_size", {64, 32}}};
  config["quantization_config"] = fp8;
  std::ofstream(job.source / "config.json") << config.dump();
  std::int64_t rows = 0, columns = 0;
  change_source(job, [&](EditableFile& file) {
    EditableTensor& weight = file.at(name);
    rows = weight.spec.shape[0];
    columns = weight.spec.shape[1];
    weight.spec.type = TensorType::kF8E4M3;
    weight.bytes.assign(static_cast<std::size_t>(rows * columns), 0xC0);  // -2
    file.add(name + "_scale_inv", TensorType::kF32, {(rows + 63) / 64, (columns + 31) / 32});
    EditableTensor& scales = file.tensors.back();
    for (std::size_t i = 0; i < scales.bytes.size() / 4; ++i) set_element(scales, i, static_cast<float>(i + 1));
  });
  const quantize::AssemblyReport report = job.assemble();
  EXPECT_THAT(report.left_out, IsEmpty());
  const Checkpoint checkpoint = Checkpoint::open(job.out);
  const auto& weight = checkpoint.require(name);
  ASSERT_EQ(weight.type, TensorType::kF16);
  for (const auto& [row, column] : {std::pair{0, 0}, {0, 32}, {63, 31}, {64, 0}, {int(rows) - 1, int(columns) - 1}}) {
    std::uint16_t half;
    std::memcpy(&half, weight.bytes.data() + 2 * (row * columns + column), sizeof half);
    const auto block = row / 64 * ((columns + 31) / 32) + column / 32;
    EXPECT_EQ(codec::float_from_half(half), -2.0f * static_cast<float>(block + 1)) << row << " " << column;
  }
  const auto written = nlohmann::ordered_json::parse(std::ifstream(job.out / "config.json"));
  EXPECT_EQ(written["quantization_config"]["original_quantization_config"], fp8);
}

TEST_F(Assemble, ValuesThatDoNotFitAreNamed) {
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  {
    TinyJob job(dir_.path() / "large");
    change_source(job, [&](EditableFile& file) { set_element(file.at(bias), 1, 70000.0f); });
    const std::string message = error_of(ErrorKind::kBadInput, [&] { job.assemble(); });
    EXPECT_THAT(message, HasSubstr("\"" + bias + "\" is 70000 at index 1"));
    EXPECT_FALSE(left_something(job));
  }
  {
    TinyJob job(dir_.path() / "nan");
    change_source(job, [&](EditableFile& file) { set_element(file.at("model.norm.weight"), 5, std::nanf("")); });
    EXPECT_THAT(error_of(ErrorKind::kBadInput, [&] { job.assemble(); }),
                HasSubstr("\"model.norm.weight\" is nan at index 5"));
    EXPECT_FALSE(left_something(job));
  }
  {
    TinyJob job(dir_.path() / "missing");
    change_source(job, [&](EditableFile& file) { file.erase("model.norm.weight"); });
    EXPECT_THAT(error_of(ErrorKind::kBadInput, [&] { job.assemble(); }), HasSubstr("\"model.norm.weight\" is missing"));
  }
  {
    TinyJob job(dir_.path() / "integers");
    change_source(job, [&](EditableFile& file) { file.at("model.norm.weight").spec.type = TensorType::kI32; });
    EXPECT_THAT(error_of(ErrorKind::kUnsupported, [&] { job.assemble(); }), HasSubstr("\"model.norm.weight\" is I32"));
  }
}

TEST_F(Assemble, TensorsOfNoUseAreListed) {
  TinyJob job(dir_.path());
  change_source(job, [](EditableFile& file) {
    file.add("model.layers.2.eh_proj.weight", TensorType::kBf16, {4, 8});
    file.add("model.layers.1.mlp.experts.gate_up_proj", TensorType::kBf16, {2, 2, 2});  // fused: belongs to the experts
  });
  const quantize::AssemblyReport report = job.assemble();
  EXPECT_THAT(report.left_out, ::testing::ElementsAre("model.layers.2.eh_proj.weight"));
  EXPECT_EQ(report.left_out_bytes, 64);
}

TEST_F(Assemble, HeadsTiedPlainAndQuantized) {
  TinySpec tied;
  tied.tie_word_embeddings = true;
  TinyJob plain_tied(dir_.path() / "tied", tied);
  plain_tied.head = false;
  plain_tied.assemble();
  EXPECT_EQ(Checkpoint::open(plain_tied.out).find("lm_head.weight"), nullptr);
  TinyJob coded_tied(dir_.path() / "coded", tied);
  coded_tied.assemble();
  EXPECT_TRUE(Checkpoint::open(coded_tied.out).has_trellis("lm_head"));
  TinyJob plain(dir_.path() / "plain");
  plain.head = false;
  plain.assemble();
  const Checkpoint checkpoint = Checkpoint::open(plain.out);
  const auto& head = checkpoint.require("lm_head.weight");
  EXPECT_EQ(head.shape, (std::vector<std::int64_t>{384, 256}));  // 320 tokens, padded
  EXPECT_TRUE(std::all_of(head.bytes.begin() + 2 * 320 * 256, head.bytes.end(), [](auto byte) { return byte == 0; }));
}

TEST_F(Assemble, WrongMatricesAreRefused) {
  TinyJob job(dir_.path());
  PartStore parts(job.dir / "out.partial", job.fingerprint, false);
  job.fill(parts);
  const auto attempt = [&](const std::vector<std::string>& prefixes) {
    quantize::assemble(job.source, parts, prefixes, job.facts, job.out, false, {}, nullptr);
  };
  auto more = job.prefixes;
  more.push_back("model.layers.9.mlp.up_proj");
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { attempt(more); }),
              HasSubstr("\"model.layers.9.mlp.up_proj\" is no linear"));
  parts.put(random_linear("lm_head", 256, 128, 6, 1), {});
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { attempt(job.prefixes); }), HasSubstr("256 x 128"));
  parts.put(random_linear("lm_head", 256, 384, 6, 1, codec::Codebook::kMcg), {});
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { attempt(job.prefixes); }), HasSubstr("codebook mcg, expected mul1"));
  parts.put(random_linear("model.layers.1.mlp.gate", 256, 128, 6, 1), {});
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { attempt({"model.layers.1.mlp.gate"}); }), HasSubstr("must stay plain"));
  auto fewer = job.prefixes;  // one expert's up_proj plain beside its trellis-coded gate: no engine takes that
  fewer.erase(std::find(fewer.begin(), fewer.end(), "model.layers.1.mlp.experts.1.up_proj"));
  parts.put(random_linear("lm_head", 256, 384, 6, 1), {});
  EXPECT_THAT(error_of(ErrorKind::kBadInput, [&] { attempt(fewer); }), HasSubstr("would not load"));
  EXPECT_FALSE(left_something(job));
}

TEST_F(Assemble, PlacesThatCannotBeWrittenAreRefused) {
  TinyJob job(dir_.path());
  const auto at = [&](const fs::path& out, bool force = false) {
    job.out = out;
    job.assemble(force);
  };
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { at(job.source, true); }), HasSubstr("is the source model"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { at(job.source / "in"); }), HasSubstr("lies inside the source"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { at(job.dir, true); }), HasSubstr("contains the source"));
  const fs::path full = job.dir / "full";
  fs::create_directories(full);
  std::ofstream(full / "letter.txt") << "dear";
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { at(full); }), HasSubstr("is not empty; --force"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { at(full, true); }), HasSubstr("holds no config.json"));
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { at(full / "letter.txt", true); }), HasSubstr("is a file"));
  EXPECT_THAT(error_of(ErrorKind::kResource, [&] { at("/proc/none/out"); }), HasSubstr("/proc"));
  EXPECT_EQ(contents(full)["letter.txt"], "dear");
  const quantize::Destination destination(job.dir / "space");
  EXPECT_THAT(error_of(ErrorKind::kResource, [&] { destination.require_space(std::int64_t{1} << 60); }),
              HasSubstr("needs 1152921504606846976 bytes"));
}

TEST_F(Assemble, ForceReplacesAndACompleteOneIsLeft) {
  TinyJob job(dir_.path());
  fs::create_directories(job.out);  // empty: may be filled
  job.assemble();
  const auto first = contents(job.out);
  EXPECT_TRUE(job.assemble().was_complete);

  job.fingerprint["bits"] = 4;  // another job
  fs::rename(job.dir / "out.partial", job.dir / "old.partial");
  EXPECT_THAT(error_of(ErrorKind::kUsage, [&] { job.assemble(); }), HasSubstr("is not empty"));
  EXPECT_EQ(contents(job.out), first);
  EXPECT_FALSE(job.assemble(true).was_complete);
  EXPECT_NE(contents(job.out)["fairway-manifest.json"], first.at("fairway-manifest.json"));
  EXPECT_FALSE(fs::exists(job.dir / "out.assembling"));
}

TEST_F(Assemble, CancelledLeavesNothing) {
  TinyJob job(dir_.path());
  PartStore parts(job.dir / "out.partial", job.fingerprint, false);
  job.fill(parts);
  std::atomic<bool> cancel = false;
  const auto stop = [&](double share, const std::string&) { cancel = share > 0.3; };
  error_of(ErrorKind::kCancelled,
           [&] { quantize::assemble(job.source, parts, job.prefixes, job.facts, job.out, false, stop, &cancel); });
  EXPECT_FALSE(left_something(job));
}

// In a child, because the limit on file sizes that stands in for a full disk cannot be lifted again.
TEST_F(Assemble, FullDiskIsAResourceErrorAndLeavesNothing) {
  TinyJob job(dir_.path());
  {
    PartStore parts(job.dir / "out.partial", job.fingerprint, false);
    job.fill(parts);
  }
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    int code = 1;
    try {
      const PartStore parts(job.dir / "out.partial", job.fingerprint, false);
      const rlimit limit{200000, 200000};
      setrlimit(RLIMIT_FSIZE, &limit);
      quantize::assemble(job.source, parts, job.prefixes, job.facts, job.out, false, {}, nullptr);
    } catch (const Error& error) {
      const bool named = std::string(error.what()).find("model.safetensors: cannot write") != std::string::npos;
      code = error.kind() == ErrorKind::kResource && named ? 0 : 2;
    }
    _exit(code);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_FALSE(left_something(job));
}

// Killed between any two steps of the progress: OUT is absent or complete, and the next run gives the usual bytes.
TEST_F(Assemble, SurvivesKills) {
  TinyJob whole(dir_.path() / "whole"), job(dir_.path() / "killed");
  whole.assemble();
  const auto expected = contents(whole.out);
  {
    PartStore parts(job.dir / "out.partial", job.fingerprint, false);
    job.fill(parts);
  }
  int calls_at_end = 0;
  {
    const PartStore parts(whole.dir / "out.partial", whole.fingerprint, false);
    const auto count = [&](double, const std::string&) { ++calls_at_end; };
    quantize::assemble(whole.source, parts, whole.prefixes, whole.facts, whole.out, true, count, nullptr);
  }
  for (const int kill_at : {1, calls_at_end / 2, calls_at_end - 3, calls_at_end - 1, calls_at_end}) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int calls = 0;
      const auto step = [&](double, const std::string&) {
        if (++calls == kill_at) raise(SIGKILL);
      };
      try {
        const PartStore parts(job.dir / "out.partial", job.fingerprint, false);
        quantize::assemble(job.source, parts, job.prefixes, job.facts, job.out, false, step, nullptr);
      } catch (...) {
        _exit(2);
      }
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    if (kill_at < calls_at_end) {
      EXPECT_FALSE(fs::exists(job.out)) << kill_at;
    } else {
      EXPECT_EQ(contents(job.out), expected);
    }
  }
  const PartStore parts(job.dir / "out.partial", job.fingerprint, false);
  EXPECT_TRUE(quantize::assemble(job.source, parts, job.prefixes, job.facts, job.out, false, {}, nullptr).was_complete);
  fs::remove_all(job.out);
  quantize::assemble(job.source, parts, job.prefixes, job.facts, job.out, false, {}, nullptr);
  EXPECT_EQ(contents(job.out), expected);
  EXPECT_FALSE(fs::exists(job.dir / "out.assembling"));
}

// Killed between the two renames of a replacement: the old model comes back before the new one is made.
TEST_F(Assemble, AModelThatWasBeingReplacedComesBack) {
  TinyJob job(dir_.path());
  job.assemble();
  const auto first = contents(job.out);
  fs::create_directories(job.dir / "out.assembling" / "model");
  fs::rename(job.out, job.dir / "out.assembling" / "replaced");
  { const quantize::Destination destination(job.out); }
  EXPECT_EQ(contents(job.out), first);
  EXPECT_FALSE(fs::exists(job.dir / "out.assembling"));
}

}  // namespace
}  // namespace fairway::test
