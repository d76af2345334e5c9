// What fairway quantize reads: fp8 models give what their values as floats give, and files that are broken are named.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "cli/quantize_fixture.h"
#include "common/folder_contents.h"
#include "common/fp8_checkpoint.h"
#include "quantize/editable_file.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;

class QuantizeFp8 : public QuantizeFixture {
 protected:
  QuantizeFp8() {
    TinySpec small = spec();
    small.experts = 2;
    write_fp8_pair(path("fp8"), path("plain"), small);
  }
  void change(const std::function<void(EditableFile&)>& change) const {
    EditableFile file(path("fp8") / "model.safetensors");
    change(file);
    file.write();
  }
  void expect_refused(const std::string& part) const {
    const ProcessResult result = run_fairway(args_from(path("fp8").string(), "refused", {"-b", "3"}));
    expect_error(result, 2, part);
    EXPECT_TRUE(contains(result.err, (path("fp8") / "model.safetensors").string())) << result.err;
    EXPECT_FALSE(fs::exists(path("refused")));
  }

  const std::string matrix_ = "model.layers.1.mlp.experts.1.down_proj.weight";
};

TEST_F(QuantizeFp8, GivesWhatItsValuesAsFloatsGive) {
  for (const char* from : {"fp8", "plain"}) {
    const std::string out = std::string(from) + "-out", losses = path(out + ".json").string();
    const ProcessResult result =
        run_fairway(args_from(path(from).string(), out, {"-b", "2.5", "--save-sensitivity", losses}));
    ASSERT_EQ(result.code, 0) << result.err;
    const ProcessResult verified = run_fairway({"verify-model", path(out).string()});
    EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  }
  const auto fp8 = contents(path("fp8-out")), plain = contents(path("plain-out"));
  ASSERT_EQ(fp8.size(), plain.size());
  // Every tensor; other files name the source and its hash.
  EXPECT_EQ(fp8.at("model.safetensors"), plain.at("model.safetensors"));
  EXPECT_EQ(nlohmann::json::parse(read_file(path("fp8-out.json")))["linears"],
            nlohmann::json::parse(read_file(path("plain-out.json")))["linears"]);
  const auto config = nlohmann::json::parse(fp8.at("config.json"))["quantization_config"];
  EXPECT_EQ(config["original_quantization_config"]["quant_method"], "fp8");
  const ProcessResult run = run_fairway({"run", "-m", path("fp8-out").string(), "-p", "The mill", "-n", "2"});
  EXPECT_EQ(run.code, 0) << run.err;
}

TEST_F(QuantizeFp8, CommandsThatRunModelsRefuseIt) {
  const std::string model = path("fp8").string();
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"run", "-m", model, "-p", "The mill", "-n", "2"},
        {"eval", "-m", model, "--text", text_},
        {"compare", source(), model, "--text", text_},
        {"bench", "decode", "-m", model}}) {
    const ProcessResult result = run_fairway(command);
    expect_error(result, 2, "model.safetensors: tensor \"model.layers.0.self_attn.q_a_proj.weight\" is F8_E4M3");
    EXPECT_TRUE(contains(result.err, "fairway quantize")) << result.err;
  }
}

TEST_F(QuantizeFp8, MissingScaleIsNamedAtOnce) {
  change([&](EditableFile& file) { file.erase(matrix_ + "_scale_inv"); });
  expect_refused("\"" + matrix_ + "\" is F8_E4M3 of shape [128, 96] and has no scales");
}

TEST_F(QuantizeFp8, ScaleThatIsNoNumberIsNamedAtOnce) {
  change([&](EditableFile& file) { set_element(file.at(matrix_ + "_scale_inv"), 1, std::nanf("")); });
  expect_refused("\"" + matrix_ + "_scale_inv\" is nan at index 1");
}

TEST_F(QuantizeFp8, WeightThatIsNoNumberIsNamed) {
  change([&](EditableFile& file) { set_element(file.at(matrix_), 100, std::uint8_t{0x7F}); });
  const ProcessResult result = run_fairway(args_from(path("fp8").string(), "refused", {"-b", "3"}));
  expect_error(result, 2, "\"" + matrix_ + "\" is nan at index 100");
  EXPECT_FALSE(fs::exists(path("refused")));
}

class QuantizeCalibrationFile : public QuantizeFixture {
 protected:
  // The error of a job that is calibrated with a file of these contents.
  void expect_refused(const std::string& option, const std::string& contents, const std::string& part) const {
    const std::string file = write_file(path("broken"), contents);
    const ProcessResult result =
        run_fairway({"quantize", source(), option, file, "-o", path("out").string(), "-b", "3"});
    expect_error(result, 2, file + ": ");
    EXPECT_TRUE(contains(result.err, part)) << "expected '" << part << "' in: " << result.err;
    EXPECT_FALSE(fs::exists(path("out")) || fs::exists(path("out.partial")));
  }
};

TEST_F(QuantizeCalibrationFile, BrokenTextsAreNamed) {
  expect_refused("--calibration", "", "no tokens");
  expect_refused("--calibration", "The mill \xFF", "not valid UTF-8 at byte 9");
  expect_refused("--calibration", std::string("The mill\n\0The \xC3", 15), "not valid UTF-8 at byte 14");
}

TEST_F(QuantizeCalibrationFile, BrokenIdsAreNamed) {
  const std::vector<std::pair<std::string, std::string>> broken = {
      {"", "unexpected end"},
      {"[]", "no tokens"},
      {"{\"ids\": []}", "no tokens"},
      {"[1, 2", "unexpected end"},
      {"[1, 2] 3", "expected end of input"},
      {"[1, 320]", "ids[1] is 320, expected an integer from 0 to 319"},
      {"[-1]", "ids[0] is -1"},
      {"[9223372036854775808]", "ids[0] is 9223372036854775808"},
      {"[1, 100000000000000000000]", "ids[1] is 1e+20"},
      {"[1e400]", "1e400"},
      {"[1.0]", "ids[0] is 1.0"},
      {"[\"1\"]", "ids[0] is"},
      {"[[1]]", "ids[0] is [1]"},
      {"[null]", "ids[0] is null"},
      {"{\"tokens\": [1]}", "no key \"ids\""},
      {"{\"ids\": 7}", "expected an array"},
      {"{\"ids\": [1], \"ids\": [2]}", "ids"},
      {"17", "expected an array"},
      {"\xEF\xBB\xBF\xFF", "broken: "},
      {std::string(100, '['), "64"}};
  for (const auto& [contents, part] : broken) expect_refused("--calibration-ids", contents, part);
}

TEST_F(QuantizeCalibrationFile, FilesThatCannotBeReadAreNamed) {
  for (const char* option : {"--calibration", "--calibration-ids"}) {
    for (const fs::path& file : {path("absent"), path("source")}) {
      const ProcessResult result =
          run_fairway({"quantize", source(), option, file.string(), "-o", path("out").string(), "-b", "3"});
      expect_error(result, 2, std::string(option) + " " + file.string() + ": cannot read: ");
      EXPECT_FALSE(fs::exists(path("out")) || fs::exists(path("out.partial")));
    }
  }
}

}  // namespace
}  // namespace fairway::test
