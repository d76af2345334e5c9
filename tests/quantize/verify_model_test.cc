// verify_model: finds each kind of damage, names it, and finds nothing in models that are sound.
#include "quantize/verify_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "fairway/error.h"
#include "quantize/editable_file.h"
#include "quantize/manifest.h"
#include "quantize/tiny_job.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;
using formats::TensorType;
using quantize::ModelCheck;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::ordered_json;

const std::string kUp = "model.layers.1.mlp.experts.1.up_proj";

ModelCheck verify(const fs::path& dir) {
  return quantize::verify_model(dir, {.threads = 2, .progress = {}, .cancel = nullptr});
}

std::string joined(const std::vector<std::string>& lines) {
  return fmt::format("{}", fmt::join(lines, "\n"));
}

// One assembled model for all tests; each works on a copy.
class VerifyModel : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    home_ = new TempDir;
    TinyJob job(home_->path());
    job.facts.bits = 3.47;  // what its matrices have on average: 4 bits, and experts of 2, 2 and 3
    job.assemble();
  }
  static void TearDownTestSuite() { delete home_; }

  void SetUp() override { fs::copy(home_->path() / "out", model_, fs::copy_options::recursive); }

  void change(const std::function<void(EditableFile&)>& step) const {
    EditableFile file(model_ / "model.safetensors");
    step(file);
    file.write();
  }
  void change_json(const char* name, const std::function<void(Json&)>& step) const {
    Json document = Json::parse(std::ifstream(model_ / name));
    step(document);
    std::ofstream(model_ / name) << document.dump(1);
  }
  // Without a manifest, so that only the rule under test can speak.
  ModelCheck verify_content() const {
    fs::remove(model_ / quantize::kManifestName);
    return verify(model_);
  }
  void expect_problem(const std::string& part) const {
    const ModelCheck check = verify_content();
    EXPECT_THAT(joined(check.problems), HasSubstr(part));
  }

  static TempDir* home_;
  TempDir dir_;
  fs::path model_ = dir_.path() / "model";
};
TempDir* VerifyModel::home_ = nullptr;

TEST_F(VerifyModel, SoundModelHasNoProblem) {
  const ModelCheck check = verify(model_);
  EXPECT_THAT(check.problems, IsEmpty()) << joined(check.problems);
  EXPECT_THAT(check.notes, ElementsAre(HasSubstr("have one width in every layer")));
  EXPECT_TRUE(check.has_manifest);
  EXPECT_EQ(check.files_hashed, 5);
  EXPECT_GT(check.trellis_linears, 20);
  EXPECT_GT(check.tiles, 1000);
}

TEST_F(VerifyModel, BundledModelHasNoProblem) {
  const ModelCheck check = verify(fs::path(FAIRWAY_SOURCE_DIR) / "models/books-moe");
  EXPECT_THAT(check.problems, IsEmpty()) << joined(check.problems);
  EXPECT_TRUE(check.has_manifest);
}

TEST_F(VerifyModel, EveryFlippedByteIsFoundByTheManifest) {
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "quantization_config.json"}) {
    std::fstream file(model_ / name, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto at = file.tellg() / 2;
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 1));
    file.close();
    const ModelCheck check = verify(model_);
    EXPECT_THAT(joined(check.problems), HasSubstr(fmt::format("{}: its SHA-256 is", name)));
    fs::copy_file(home_->path() / "out" / name, model_ / name, fs::copy_options::overwrite_existing);
  }
  EXPECT_THAT(verify(model_).problems, IsEmpty());
}

TEST_F(VerifyModel, ManifestFindsMissingShortAndStrangeFiles) {
  fs::remove(model_ / "tokenizer_config.json");
  std::ofstream(model_ / "tokenizer.json", std::ios::app) << " ";
  std::ofstream(model_ / "letter.txt") << "dear";
  const ModelCheck check = verify(model_);
  EXPECT_EQ(check.problems.size(), 2u) << joined(check.problems);
  EXPECT_THAT(joined(check.problems), HasSubstr("tokenizer_config.json"));
  EXPECT_THAT(joined(check.problems), HasSubstr("the manifest says"));
  EXPECT_THAT(joined(check.notes), HasSubstr("letter.txt is not in the manifest"));
}

TEST_F(VerifyModel, DamagedManifestsAreNamed) {
  const auto damage = [&](const std::function<void(Json&)>& step, const char* part) {
    change_json(quantize::kManifestName, step);
    EXPECT_THAT(joined(verify(model_).problems), HasSubstr(part));
    fs::copy_file(home_->path() / "out" / quantize::kManifestName, model_ / quantize::kManifestName,
                  fs::copy_options::overwrite_existing);
  };
  damage([](Json& m) { m["format"] = "fairway-manifest-9"; }, "fairway-manifest-9");
  damage([](Json& m) { m["files"]["../x"] = m["files"]["config.json"]; }, "\"../x\" is not the plain name");
  damage([](Json& m) { m["files"]["config.json"]["sha256"] = "12"; }, "64 lower-case hex digits");
  damage([](Json& m) { m["files"]["config.json"]["bytes"] = -1; }, "bytes");
  damage([](Json& m) { m.erase("files"); }, "files");
}

TEST_F(VerifyModel, WrongFlags) {
  change([](EditableFile& file) { set_element(file.at(kUp + ".mul1"), 0, std::int32_t{12345}); });
  expect_problem(fmt::format("tensor \"{}.mul1\" is 12345, expected the codebook's multiplier -2082680531", kUp));
}

TEST_F(VerifyModel, TwoFlagsOrAnotherCodebook) {
  change([](EditableFile& file) {
    file.add(kUp + ".mcg", TensorType::kI32, {});
    set_element(file.tensors.back(), 0, std::int32_t{-877912083});
  });
  expect_problem("stands beside mcg");
  change([](EditableFile& file) { file.erase(kUp + ".mul1"); });
  const ModelCheck check = verify_content();
  EXPECT_THAT(joined(check.problems), HasSubstr("expected one codebook"));
  EXPECT_THAT(joined(check.problems), HasSubstr(kUp + ".mul1\", which is not stored"));  // by tensor_storage
}

TEST_F(VerifyModel, WrongShapesAndTypes) {
  const auto damage = [&](const std::string& name, const std::function<void(EditableTensor&)>& step, const char* part) {
    change([&](EditableFile& file) { step(file.at(name)); });
    expect_problem(fmt::format("tensor \"{}\" {}", name, part));
    fs::copy_file(home_->path() / "out/model.safetensors", model_ / "model.safetensors",
                  fs::copy_options::overwrite_existing);
  };
  const auto shape = [](const std::vector<std::int64_t>& dims) {
    return [dims](EditableTensor& tensor) {
      tensor.spec.shape = dims;
      std::size_t bytes = 2;
      for (const auto n : dims) bytes *= static_cast<std::size_t>(n);
      tensor.bytes.resize(bytes, 1);
    };
  };
  const auto type = [](TensorType other) { return [other](EditableTensor& tensor) { tensor.spec.type = other; }; };
  damage(kUp + ".trellis", shape({16, 16, 40}), "has shape [16, 16, 40], expected [in/16, out/16, 16 * bits]");
  damage(kUp + ".trellis", shape({16, 16, 144}), "has shape [16, 16, 144]");  // 9 bits
  damage(kUp + ".trellis", shape({16, 12, 32}), "has shape [16, 12, 32]");    // 192 outputs
  damage(kUp + ".trellis", shape({16, 16 * 32}), "has shape [16, 512]");
  damage(kUp + ".trellis", type(TensorType::kF16), "is F16, expected I16");
  damage(kUp + ".suh", shape({128}), "is F16 of shape [128], expected F16 of shape [256]");
  damage(kUp + ".svh", type(TensorType::kBf16), "is BF16 of shape [256], expected F16 of shape [256]");
  damage("model.layers.1.mlp.gate.weight", type(TensorType::kBf16), "is BF16, expected F16");
  damage("model.norm.weight", shape({128}), "is F16 of shape [128], expected shape [256]");
}

TEST_F(VerifyModel, SizesOfAnotherModel) {
  change([](EditableFile& file) {  // consistent in itself, but 128 outputs where the config asks for 192
    EditableTensor& trellis = file.at(kUp + ".trellis");
    trellis.spec.shape[1] = 8;
    trellis.bytes.resize(trellis.bytes.size() / 2);
    file.at(kUp + ".svh").spec.shape = {128};
    file.at(kUp + ".svh").bytes.resize(256);
  });
  expect_problem("for 256 inputs and 192 outputs");
}

TEST_F(VerifyModel, ValuesThatAreNotFinite) {
  change([](EditableFile& file) { set_element(file.at(kUp + ".suh"), 7, std::uint16_t{0x7E00}); });
  expect_problem(fmt::format("tensor \"{}.suh\" is nan at index 7", kUp));
  change([](EditableFile& file) { set_element(file.at("model.norm.weight"), 3, std::uint16_t{0x7C00}); });
  expect_problem("\"model.norm.weight\" is inf at index 3");
}

TEST_F(VerifyModel, MissingTensors) {
  for (const char* part : {"suh", "svh", "trellis"}) {
    change([&](EditableFile& file) { file.erase(kUp + "." + part); });
    expect_problem(fmt::format("belongs to the linear \"{}\", which has no {}", kUp, part));
    fs::copy_file(home_->path() / "out/model.safetensors", model_ / "model.safetensors",
                  fs::copy_options::overwrite_existing);
  }
  change([&](EditableFile& file) {
    for (const char* part : {".trellis", ".suh", ".svh", ".mul1"}) file.erase(kUp + part);
    file.erase("model.norm.weight");
  });
  const std::string problems = joined(verify_content().problems);
  EXPECT_THAT(problems, HasSubstr(fmt::format("linear \"{}\" is missing", kUp)));
  EXPECT_THAT(problems, HasSubstr("\"model.norm.weight\" is missing"));
  EXPECT_THAT(problems, HasSubstr("of which no tensor is stored"));
}

TEST_F(VerifyModel, CodedWherePlainIsNeeded) {
  change([](EditableFile& file) {
    const std::string gate = "model.layers.1.mlp.gate";
    file.erase(gate + ".weight");
    file.add(gate + ".trellis", TensorType::kI16, {16, 8, 32});
    file.tensors.back().bytes[0] = 1;
    file.add(gate + ".suh", TensorType::kF16, {256});
    file.add(gate + ".svh", TensorType::kF16, {128});
    file.add(gate + ".mul1", TensorType::kI32, {});
    set_element(file.tensors.back(), 0, std::int32_t{-2082680531});
  });
  const std::string problems = joined(verify_content().problems);
  EXPECT_THAT(problems, HasSubstr("this linear must be a plain model.layers.1.mlp.gate.weight"));
}

TEST_F(VerifyModel, MatrixOfZeros) {
  change([](EditableFile& file) {
    auto& bytes = file.at(kUp + ".trellis").bytes;
    std::fill(bytes.begin(), bytes.end(), std::uint8_t{0});
  });
  expect_problem(fmt::format("\"{}.trellis\" holds nothing but zero bytes", kUp));
}

TEST_F(VerifyModel, BiasOfAnotherLength) {
  change([](EditableFile& file) { file.add(kUp + ".bias", TensorType::kF16, {100}); });
  expect_problem(".bias\" is F16 of shape [100], expected F16 of shape [256]");
}

TEST_F(VerifyModel, ConfigurationThatLies) {
  const auto damage = [&](const char* name, const std::function<void(Json&)>& step, const std::string& part) {
    change_json(name, step);
    expect_problem(part);
    fs::copy_file(home_->path() / "out" / name, model_ / name, fs::copy_options::overwrite_existing);
  };
  const auto config = [&](const std::function<void(Json&)>& step, const std::string& part) {
    damage(
        "config.json", [&](Json& document) { step(document["quantization_config"]); }, part);
  };
  config([](Json& q) { q["head_bits"] = 4; }, "head_bits: 4, but lm_head has 6 bits");
  config([](Json& q) { q["codebook"] = "mcg"; }, "codebook: \"mcg\", but");
  config([](Json& q) { q["bits"] = "three"; }, "bits is");
  config([](Json& q) { q["out_scales"] = "perhaps"; }, "out_scales: \"perhaps\"");
  config([](Json& q) { q["calibration"].erase("rows"); }, "rows");
  config([](Json& q) { q["version"] = "2"; }, "version is");  // differs from quantization_config.json
  damage(
      "config.json", [](Json& document) { document.erase("quantization_config"); }, "quantization_config");

  const auto storage = [&](const std::function<void(Json&)>& step, const std::string& part) {
    damage(
        "quantization_config.json", [&](Json& document) { step(document["tensor_storage"]); }, part);
  };
  const std::string trellis = kUp + ".trellis";
  storage([](Json& s) { s[kUp]["bits_per_weight"] = 5; }, "bits_per_weight is 5, expected 2");
  storage([](Json& s) { s[kUp]["mul1_multiplier"] = 1; }, "mul1_multiplier is 1, expected 2212286765");
  storage([](Json& s) { s[kUp].erase("quant_format"); }, "quant_format is missing");
  storage([&](Json& s) { s[kUp]["stored_tensors"][trellis]["n_bytes"] = 1; }, "n_bytes is 1, but");
  storage([&](Json& s) { s[kUp]["stored_tensors"][trellis]["shape"] = {1, 2}; }, "shape is [1,2], but [16,16,32]");
  storage([&](Json& s) { s[kUp]["stored_tensors"][trellis]["dtype"] = "torch.int8"; }, "dtype is");
  storage([&](Json& s) { s[kUp]["stored_tensors"].erase(trellis); }, "does not list");
  storage([](Json& s) { s.erase(kUp); }, "does not list the coded linear \"" + kUp + "\"");
  storage([](Json& s) { s["nothing"] = s[kUp]; }, "lists the module \"nothing\"");
  damage(
      "quantization_config.json", [](Json& document) { document["bits"] = 7; }, "bits is 7, but 3.47");
}

TEST_F(VerifyModel, NotesOfWhatIsAllowed) {
  fs::remove(model_ / "quantization_config.json");
  change([](EditableFile& file) {  // one expert of another width: allowed, but not by the reference's loader
    EditableTensor& trellis = file.at(kUp + ".trellis");
    trellis.spec.shape[2] = 16 * 5;
    trellis.bytes.resize(16 * 16 * 160, 3);
    file.add("model.layers.2.eh_proj.weight", TensorType::kBf16, {4, 8});
  });
  change_json("config.json", [](Json& config) { config["quantization_config"]["bits"] = 2.0; });
  const ModelCheck check = verify_content();
  EXPECT_THAT(check.problems, IsEmpty()) << joined(check.problems);
  const std::string notes = joined(check.notes);
  EXPECT_THAT(notes, HasSubstr("no usable fairway-manifest.json"));
  EXPECT_THAT(notes, HasSubstr("there is no quantization_config.json"));
  EXPECT_THAT(notes, HasSubstr("\"model.layers.1.mlp.experts.*.up_proj\": 2, 5 bits"));
  EXPECT_THAT(notes, HasSubstr("1 tensor that DeepseekV3ForCausalLM does not name"));
  EXPECT_THAT(notes, HasSubstr("quantization_config.bits is 2.0"));
}

TEST_F(VerifyModel, PlainModelIsNoEXL3Model) {
  const std::string problems = joined(verify(home_->path() / "source").problems);
  EXPECT_THAT(problems, HasSubstr("no linear is trellis-coded"));
  EXPECT_THAT(problems, HasSubstr("quantization_config"));
}

TEST_F(VerifyModel, BrokenFilesAndFoldersAreReported) {
  fs::resize_file(model_ / "model.safetensors", fs::file_size(model_ / "model.safetensors") - 1000);
  std::ofstream(model_ / "config.json") << "{";
  const std::string problems = joined(verify_content().problems);
  EXPECT_THAT(problems, HasSubstr("model.safetensors"));
  EXPECT_THAT(problems, HasSubstr("config.json"));
  EXPECT_THROW(verify(dir_.path() / "none"), Error);
  const std::atomic<bool> cancel = true;
  EXPECT_THROW(quantize::verify_model(home_->path() / "out", {.threads = 1, .progress = {}, .cancel = &cancel}), Error);
}

}  // namespace
}  // namespace fairway::test
