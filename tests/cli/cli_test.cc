// Help, versions, exit codes and errors that every command shares, and `fairway kernels`.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

TEST(Cli, EveryCommandHasHelpWithExampleAndExitCodes) {
  const std::vector<std::vector<std::string>> commands = {{},
                                                          {"run"},
                                                          {"eval"},
                                                          {"compare"},
                                                          {"inspect"},
                                                          {"kernels"},
                                                          {"bench"},
                                                          {"bench", "decode"},
                                                          {"bench", "prefill"},
                                                          {"bench", "moe"},
                                                          {"synth"},
                                                          {"verify"},
                                                          {"verify-model"},
                                                          {"explain"},
                                                          {"autotune"},
                                                          {"optimize"}};
  for (std::vector<std::string> command : commands) {
    command.push_back("--help");
    const ProcessResult result = run_fairway(command);
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    for (const char* part : {"Example:", "fairway ", "Exit codes: 0 success", "130 interrupted"}) {
      EXPECT_TRUE(contains(result.out, part)) << command.front() << ": " << part;
    }
  }
}

TEST(Cli, VersionIsTheProjects) {
  const std::string cmake = read_file(kSource + "/CMakeLists.txt");
  const std::string version = run_fairway({"--version"}).out;
  ASSERT_TRUE(version.starts_with("fairway ")) << version;
  EXPECT_TRUE(contains(cmake, "VERSION " + version.substr(8, version.size() - 9) + " ")) << version;
}

TEST(Cli, UsageErrorsNameTheFlag) {
  expect_error(run_fairway({"run", "--model", kModel, "--prompt", "x", "--no-such-flag"}), 2, "--no-such-flag");
  expect_error(run_fairway({"run", "--prompt", "x"}), 2, "--model");
  expect_error(run_fairway({"run", "--model", kModel, "--prompt", "x", "--max-tokens", "0"}), 2, "--max-tokens");
  expect_error(run_fairway({"run", "--model", kModel, "--prompt", "x", "--max-tokens", "many"}), 2, "--max-tokens");
  expect_error(run_fairway({"run", "--model", kModel, "--prompt", "x", "--temperature", "nan"}), 2, "--temperature");
  expect_error(run_fairway({"run", "--model", kModel, "--prompt", "x", "--top-p", "1.5"}), 2, "--top-p");
  expect_error(run_fairway({"bench", "sideways"}), 2, "sideways");
  expect_error(run_fairway({}), 2, "subcommand");
}

TEST(Cli, ErrorsAreJsonToo) {
  const ProcessResult usage = run_fairway({"run", "--json", "--bogus"});
  expect_error(usage, 2, "--bogus");
  EXPECT_TRUE(contains(usage.json()["error"], "--bogus"));
  EXPECT_EQ(usage.json()["kind"], "usage");
  const ProcessResult input = run_fairway({"run", "--json", "--model", "/nowhere/model", "--prompt", "x"});
  expect_error(input, 2, "/nowhere/model");
  EXPECT_EQ(input.json()["kind"], "bad_input");
}

TEST(Cli, FullDiskOnStandardOutputIsAnError) {
  const ProcessResult result = run_fairway({"kernels"}, "", {}, "/dev/full");
  EXPECT_EQ(result.code, 3);
  EXPECT_TRUE(contains(result.err, "standard output")) << result.err;
}

TEST(Cli, KernelsListsEveryRowAndWhatIsMissing) {
  const ProcessResult result = run_fairway({"kernels", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = result.json();
  expect_keys(json, {"machine", "rows", "aliases", "missing"});
  expect_keys(json["machine"], {"cpu", "features", "cores", "l2_bytes", "l3_bytes", "memory_bytes", "cuda"});
  std::set<std::string> ids, families;
  bool reference_runs = false;
  for (const nlohmann::json& row : json["rows"]) {
    expect_keys(row, {"id", "op", "family", "backend", "weights", "activations", "numerics", "codes", "codebooks",
                      "bits", "use", "m_min", "m_max", "tile_m", "tile_n", "simdgroups", "source", "can_run"});
    EXPECT_TRUE(ids.insert(row["id"]).second) << row["id"];
    families.insert(row["family"]);
    EXPECT_TRUE(std::filesystem::exists(kSource + "/" + row["source"].get<std::string>())) << row["source"];
    reference_runs |= row["op"] == "moe_swiglu" && row["backend"] == "cpu_ref" && row["can_run"];
    EXPECT_EQ(row["can_run"].get<bool>(), row["lacking"] == "");
  }
  EXPECT_TRUE(reference_runs);
  for (const nlohmann::json& family : json["missing"]) EXPECT_FALSE(families.contains(family)) << family;
  EXPECT_FALSE(json["aliases"].empty());
  for (const nlohmann::json& alias : json["aliases"]) {
    expect_keys(alias, {"name", "family", "reason"});
    EXPECT_TRUE(families.contains(alias["family"])) << alias;
    EXPECT_FALSE(families.contains(alias["name"])) << alias;
  }

  const ProcessResult text = run_fairway({"kernels"});
  EXPECT_EQ(text.code, 0);
  for (const std::string& id : ids) EXPECT_TRUE(contains(text.out, id + " ")) << id;
  for (const nlohmann::json& alias : json["aliases"]) {
    EXPECT_TRUE(contains(text.out, alias["name"].get<std::string>() + " = ")) << alias;
  }
}

TEST(Cli, KernelsSaysWhichCudaDevicesThereAreOrWhyNone) {
  const nlohmann::json cuda = run_fairway({"kernels", "--json"}).json()["machine"]["cuda"];
  expect_keys(cuda, {"devices", "absent", "driver", "runtime", "compiled_for"});
  const std::string text = run_fairway({"kernels"}).out;
  EXPECT_EQ(cuda["devices"].empty(), cuda["absent"].is_string()) << cuda;
  if (cuda["devices"].empty()) {
    EXPECT_TRUE(contains(text, "\ncuda: none (" + cuda["absent"].get<std::string>() + ")\n")) << text;
    EXPECT_EQ(cuda["compiled_for"] == "", cuda["absent"] == "built without a CUDA toolkit") << cuda;
  }
  int index = 0;
  for (const nlohmann::json& device : cuda["devices"]) {
    expect_keys(device, {"index", "name", "compute_capability", "multiprocessors", "l2_bytes", "shared_bytes_per_block",
                         "memory_bytes"});
    EXPECT_EQ(device["index"], index);
    EXPECT_TRUE(contains(text, "\ncuda " + std::to_string(index++) + ": " + device["name"].get<std::string>())) << text;
  }
}

}  // namespace
}  // namespace fairway::test
