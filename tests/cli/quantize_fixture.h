// Small jobs for the tests of `fairway quantize`: a random model, a text to calibrate with, and the options of a job.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/process.h"
#include "common/tiny_checkpoint.h"

namespace fairway::test {

class QuantizeFixture : public testing::Test {
 protected:
  QuantizeFixture() {
    write_tiny_checkpoint(dir_.path() / "source", spec(), TinyForm::kDequantizedF32);
    std::string text;
    for (int i = 0; i < 60; ++i)
      text += "The mill by the river ground corn for " + std::to_string(7 * i) + " farms.\n\n";
    text_ = write_file(dir_.path() / "text.txt", text);
  }

  static TinySpec spec() {
    TinySpec spec;
    spec.hidden = 128;
    spec.experts = 3;
    spec.top_k = 2;
    spec.expert_intermediate = 96;
    spec.dense_intermediate = 128;
    return spec;
  }

  std::vector<std::string> args(const std::string& out, std::vector<std::string> more) const {
    return args_from(source(), out, std::move(more));
  }
  std::vector<std::string> args_from(const std::string& model, const std::string& out,
                                     std::vector<std::string> more) const {
    std::vector<std::string> all = {"quantize",
                                    model,
                                    "--calibration",
                                    text_,
                                    "-o",
                                    path(out).string(),
                                    "--threads",
                                    "2",
                                    "--calibration-tokens",
                                    "256",
                                    "--calibration-window",
                                    "64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  ProcessResult quantize(const std::string& out, std::vector<std::string> more) const {
    return run_fairway(args(out, std::move(more)));
  }
  std::string source() const { return path("source").string(); }
  std::filesystem::path path(const std::string& name) const { return dir_.path() / name; }

  TempDir dir_;
  std::string text_;
};

}  // namespace fairway::test
