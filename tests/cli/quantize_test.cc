// fairway quantize on small random models: plans, bytes that depend on nothing but the job, errors.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "cli/quantize_fixture.h"
#include "common/folder_contents.h"
#include "quantize/editable_file.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;

using Quantize = QuantizeFixture;

TEST_F(Quantize, WritesAModelThatIsVerifiedAndClose) {
  const ProcessResult result = quantize("out", {"-b", "4", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_keys(json, {"out", "bytes", "files", "resumed", "seconds", "matrices"});
  for (const auto& [prefix, facts] : json["matrices"].items()) {
    EXPECT_LT(facts["relative_error"].get<double>(), 0.3) << prefix;
    EXPECT_GT(facts["calibration_rows"].get<int>(), 0) << prefix;
  }
  EXPECT_FALSE(fs::exists(path("out.partial")));
  const ProcessResult verified = run_fairway({"verify-model", path("out").string()});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  const ProcessResult compared = run_fairway(
      {"compare", source(), path("out").string(), "--text", text_, "--window", "64", "--windows", "2", "--json"});
  ASSERT_EQ(compared.code, 0) << compared.err;
}

TEST_F(Quantize, BytesDoNotDependOnThreads) {
  ASSERT_EQ(quantize("two", {"-b", "2.5"}).code, 0);
  std::vector<std::string> one = args("one", {"-b", "2.5"});
  *std::find(one.begin(), one.end(), "2") = "1";
  const ProcessResult result = run_fairway(one);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(contents(path("one")), contents(path("two")));
}

TEST_F(Quantize, APlanIsMadeSavedAndUsed) {
  const std::string plan = path("plan.yaml").string(), losses = path("losses.json").string();
  const ProcessResult made =
      quantize("none", {"-b", "3", "--plan-only", "--save-plan", plan, "--save-sensitivity", losses, "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_FALSE(fs::exists(path("none")));
  const nlohmann::json made_plan = made.json();
  std::set<int> widths;
  for (const nlohmann::json& linear : made_plan["linears"]) widths.insert(linear["bits"].get<int>());
  EXPECT_GT(widths.size(), 1u);
  const ProcessResult again = quantize("none", {"-b", "3", "--plan-only", "--sensitivity", losses, "--json"});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.json()["linears"], made_plan["linears"]);
  const ProcessResult used = quantize("planned", {"--plan", plan, "--json"});
  ASSERT_EQ(used.code, 0) << used.err;
  const nlohmann::json used_report = used.json();
  for (const nlohmann::json& linear : made_plan["linears"]) {
    EXPECT_EQ(used_report["matrices"][linear["prefix"].get<std::string>()]["bits"], linear["bits"]);
  }
}

TEST_F(Quantize, RangesBoundTheWidthsOfARole) {
  const ProcessResult made =
      quantize("none", {"-b", "4", "--plan-only", "--range", "expert=2-3", "--range", "attention=5-8", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  const nlohmann::json plan = made.json();
  for (const nlohmann::json& linear : plan["linears"]) {
    const std::string prefix = linear["prefix"];
    const int bits = linear["bits"];
    const bool expert = prefix.find(".experts.") != std::string::npos;
    const bool attention = prefix.find(".self_attn.") != std::string::npos;
    EXPECT_TRUE(!expert || bits == 2 || bits == 3) << prefix << " " << bits;
    EXPECT_TRUE(!attention || bits >= 5) << prefix << " " << bits;
  }
  for (const char* range : {"expert", "expert=", "expert=2", "expert=3-2", "expert=0-2", "expert=2-9", "router=2-3"}) {
    expect_error(quantize("none", {"-b", "3", "--plan-only", "--range", range}), 2, "--range");
  }
}

TEST_F(Quantize, ALibraryServesOtherBudgets) {
  const std::string library = path("library").string();
  const std::vector<std::string> other = {"-b", "2.5", "--allocation", "uniform"};
  ASSERT_EQ(quantize("alone", other).code, 0);
  const ProcessResult first = quantize("first", {"-b", "2", "--allocation", "uniform", "--library", library, "--json"});
  ASSERT_EQ(first.code, 0) << first.err;
  const nlohmann::json first_report = first.json();
  EXPECT_EQ(first_report["reused"], 0);
  for (const char* stage : {"sensitivity", "calibration", "factors", "coding", "assembly"}) {
    EXPECT_GT(first_report["seconds_of"][stage].get<double>(), 0) << stage;
  }
  std::vector<std::string> with_library = other;
  with_library.insert(with_library.end(), {"--library", library, "--json"});
  const ProcessResult second = quantize("second", with_library);
  ASSERT_EQ(second.code, 0) << second.err;
  const nlohmann::json report = second.json();
  EXPECT_GT(report["reused"], 0);
  EXPECT_LT(report["reused"], report["matrices"].size());
  EXPECT_EQ(contents(path("second")), contents(path("alone")));
  // Other options, other parts.
  with_library.insert(with_library.end(), {"--seed", "2"});
  const ProcessResult third = quantize("third", with_library);
  ASSERT_EQ(third.code, 0) << third.err;
  EXPECT_EQ(third.json()["reused"], 0);
}

TEST_F(Quantize, RefusesWhatItCannotDo) {
  expect_error(run_fairway({"quantize", source(), "-o", path("x").string(), "--calibration", text_}), 2, "--plan FILE");
  expect_error(quantize("x", {"-b", "3", "--size", "100000"}), 2, "exactly one");
  expect_error(run_fairway({"quantize", source(), "-o", path("x").string(), "-b", "3"}), 2, "--calibration");
  expect_error(quantize("x", {"-b", "3", "--allocation", "best"}), 2, "best");
  expect_error(quantize("x", {"--size", "1000"}), 2, "1000");
  expect_error(
      run_fairway({"quantize", path("nowhere").string(), "-b", "3", "-o", path("x").string(), "--calibration", text_}),
      2, "nowhere");
  const std::string bundled = FAIRWAY_SOURCE_DIR "/models/books-moe";
  expect_error(run_fairway({"quantize", bundled, "-b", "3", "-o", path("x").string(), "--calibration", text_}), 2,
               "trellis-coded already");
  fs::create_directories(path("y.partial"));
  expect_error(quantize("y", {"-b", "3"}), 2, "--resume");
}

TEST_F(Quantize, AWeightThatIsNotANumberIsNamed) {
  const std::string name = "model.layers.1.mlp.experts.2.up_proj.weight";
  EditableFile file(path("source") / "model.safetensors");
  set_element(file.at(name), 3 * 128 + 5, std::nanf(""));
  file.write();
  const ProcessResult result = quantize("x", {"-b", "3"});
  expect_error(result, 2, name);
  EXPECT_TRUE(contains(result.err, "[3, 5]")) << result.err;
  EXPECT_FALSE(fs::exists(path("x")));
}

}  // namespace
}  // namespace fairway::test
