// fairway eval: windows, strides, input forms, log-probability files.
#include <gtest/gtest.h>

#include <cmath>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {
namespace {

const std::string kText =
    "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals, when it was checked by "
    "a "
    "violent gust of wind which swept up the streets, rattling along the house-tops.";

class Eval : public ::testing::Test {
 protected:
  // 40 ids of real text, so that the model has something to predict.
  Eval() {
    const ProcessResult run = run_fairway({"run", "--model", kModel, "--prompt", kText, "--max-tokens", "1", "--json"});
    const nlohmann::json prompt = run.json()["prompt_ids"];
    ids_ = nlohmann::json(prompt.begin(), prompt.begin() + 40);
    array_ = write_file(dir_.path() / "array.json", ids_.dump());
  }
  ProcessResult eval(std::vector<std::string> more) {
    std::vector<std::string> args = {"eval", "--model", kModel, "--json", "--threads", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return run_fairway(args);
  }
  nlohmann::json eval_json(std::vector<std::string> more) {
    const ProcessResult result = eval(std::move(more));
    EXPECT_EQ(result.code, 0) << result.err;
    return result.json();
  }

  TempDir dir_;
  nlohmann::json ids_;
  std::string array_;
};

TEST_F(Eval, WindowsCoverTheStream) {
  const nlohmann::json json = eval_json({"--ids", array_, "--window", "8"});
  expect_keys(json, {"perplexity", "tokens", "seconds", "windows", "tokens_per_second", "kernels", "counters"});
  EXPECT_EQ(json["windows"], 4);  // ids 0..8, 8..16, 16..24, 24..32; a fifth would need id 40
  EXPECT_EQ(json["tokens"], 32);
  EXPECT_GT(json["perplexity"].get<double>(), 1);
  EXPECT_LT(json["perplexity"].get<double>(), 8192);
  EXPECT_EQ(eval_json({"--ids", array_, "--window", "8", "--windows", "2"})["tokens"], 16);
}

TEST_F(Eval, ObjectFormIsTheSame) {
  const std::string object = write_file(dir_.path() / "object.json", nlohmann::json{{"ids", ids_}, {"note", 1}}.dump());
  EXPECT_EQ(eval_json({"--ids", array_, "--window", "8"})["perplexity"],
            eval_json({"--ids", object, "--window", "8"})["perplexity"]);
}

TEST_F(Eval, ShortStreamIsOneShortWindow) {
  const nlohmann::json json = eval_json({"--ids", array_});
  EXPECT_EQ(json["windows"], 1);
  EXPECT_EQ(json["tokens"], 39);
}

TEST_F(Eval, StrideCountsOnlyNewTokensAndAgreesWithLogprobs) {
  const std::string out = (dir_.path() / "logprobs.json").string();
  const nlohmann::json json = eval_json({"--ids", array_, "--window", "8", "--stride", "3", "--logprobs", out});
  EXPECT_EQ(json["windows"], 11);  // starts 0, 3, ..., 30; the last predicts ids 31..38
  EXPECT_EQ(json["tokens"], 8 + 10 * 3);
  const nlohmann::json windows = nlohmann::json::parse(read_file(out));
  ASSERT_EQ(windows.size(), 11u);
  double sum = 0;
  int counted = 0;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    EXPECT_EQ(windows[w]["start"], 3 * w);
    EXPECT_EQ(windows[w]["ids"], nlohmann::json(ids_.begin() + 3 * w, ids_.begin() + 3 * w + 9));
    ASSERT_EQ(windows[w]["logprobs"].size(), 8u);
    for (std::size_t i = windows[w]["first_counted"]; i < 8; ++i, ++counted)
      sum += windows[w]["logprobs"][i].get<double>();
  }
  EXPECT_EQ(counted, json["tokens"]);
  EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(-sum / counted), 1e-6 * std::exp(-sum / counted));
}

TEST_F(Eval, OneWindowGivesOneLogprobObject) {
  const std::string out = (dir_.path() / "one.json").string();
  eval_json({"--ids", array_, "--logprobs", out});
  const nlohmann::json json = nlohmann::json::parse(read_file(out));
  EXPECT_EQ(json["ids"], ids_);
  EXPECT_EQ(json["logprobs"].size(), 39u);
  EXPECT_FALSE(json.contains("routing_margins"));
  eval_json({"--ids", array_, "--logprobs", out, "--routing-margins"});
  const nlohmann::json watched = nlohmann::json::parse(read_file(out));
  EXPECT_EQ(watched["logprobs"], json["logprobs"]);
  EXPECT_EQ(watched["routing_margins"].size(), 39u);
}

TEST_F(Eval, TextIsSplitIntoDocuments) {
  const std::string one = write_file(dir_.path() / "one.txt", kText);
  const std::string two = write_file(dir_.path() / "two.txt", kText + "\n" + std::string(1, '\0') + kText);
  const nlohmann::json first = eval_json({"--text", one});
  const nlohmann::json both = eval_json({"--text", two});
  EXPECT_EQ(both["tokens"].get<int>(), 2 * first["tokens"].get<int>() + 1);  // the second beginning is predicted too
  const ProcessResult human = run_fairway({"eval", "--model", kModel, "--text", one});
  EXPECT_TRUE(human.out.starts_with("perplexity ")) << human.out;
}

TEST_F(Eval, BadInputIsNamed) {
  expect_error(eval({"--ids", array_, "--text", array_}), 2, "--text");
  expect_error(eval({}), 2, "--ids");
  expect_error(eval({"--ids", "/nowhere/ids.json"}), 2, "/nowhere/ids.json");
  expect_error(eval({"--text", dir_.path().string()}), 2, "--text");
  expect_error(eval({"--ids", array_, "--window", "8", "--stride", "9"}), 2, "--stride");
  const auto refuses = [&](const char* text, const char* part) {
    expect_error(eval({"--ids", write_file(dir_.path() / "bad.json", text)}), 2, part);
  };
  refuses("[0, 1, 8192]", "ids[2]");
  refuses("[0, -1]", "ids[1]");
  refuses("[0, 1.5]", "ids[1]");
  refuses("[0, 18446744073709551615]", "ids[1]");
  refuses("{\"tokens\": [1]}", "\"ids\"");
  refuses("[7]", "at least 2");
  refuses("[7, ", "bad.json");
  expect_error(eval({"--text", write_file(dir_.path() / "bad.txt", "a\xC0 b")}), 2, "bad.txt");
}

TEST_F(Eval, CtrlCReportsTheWindowsSoFar) {
  std::string many = "[";
  for (int i = 0; i < 20000; ++i) many += ids_[static_cast<std::size_t>(i % 40)].dump() + (i + 1 < 20000 ? "," : "]");
  const std::string path = write_file(dir_.path() / "many.json", many);
  const ProcessResult result =
      interrupt_at_work({"eval", "--model", kModel, "--ids", path, "--window", "8", "--backend", "cpu_ref", "--json"});
  ASSERT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.json()["stop"], "cancelled") << result.out;
  EXPECT_LT(result.json()["windows"].get<int>(), 2499);
}

}  // namespace
}  // namespace fairway::test
