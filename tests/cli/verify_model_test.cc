// fairway verify-model: exit codes, text and JSON.
#include <gtest/gtest.h>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

namespace fs = std::filesystem;

TEST(VerifyModelCommand, AcceptsTheBundledModel) {
  const ProcessResult result = run_fairway({"verify-model", kModel});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "no problems")) << result.out;
  EXPECT_TRUE(contains(result.out, "exllamav3: in 19 of 21 projections of layers the experts have different widths"))
      << result.out;
}

TEST(VerifyModelCommand, AcceptsWhatSynthWrites) {
  const TempDir dir;
  const std::string out = (dir.path() / "mixed").string();
  ASSERT_EQ(run_fairway({"synth", "--config", kModel, "--bits", "6,2,3;2,2,5", "--layers", "2", "--out", out}).code, 0);
  const ProcessResult result = run_fairway({"verify-model", out, "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_keys(json, {"model", "ok", "problems", "notes", "tensors", "trellis_linears", "tiles_decoded", "manifest",
                     "files_hashed"});
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["manifest"], false);
  EXPECT_TRUE(contains(json["notes"].dump(), "have different widths")) << json["notes"];
}

TEST(VerifyModelCommand, ReportsEachProblemAndExitsWithTwo) {
  const TempDir dir;
  const fs::path out = dir.path() / "tiny";
  TinySpec spec;
  spec.all_codebooks = true;  // the engine runs it, the format does not know it
  write_tiny_checkpoint(out, spec, TinyForm::kExl3);
  fs::remove(out / "tokenizer.json");
  const ProcessResult result = run_fairway({"verify-model", out.string(), "--json"});
  EXPECT_EQ(result.code, 2);
  const nlohmann::json json = result.json();
  EXPECT_EQ(json["ok"], false);
  EXPECT_TRUE(contains(json["problems"].dump(), "expected one codebook")) << json["problems"];
  EXPECT_EQ(static_cast<std::size_t>(std::count(result.err.begin(), result.err.end(), '\n')), json["problems"].size());
  expect_error(run_fairway({"verify-model", (dir.path() / "none").string()}), 2, "none");
  EXPECT_EQ(run_fairway({"verify-model"}).code, 2);
}

}  // namespace
}  // namespace fairway::test
