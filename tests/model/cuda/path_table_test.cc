// Paths tuned on a device, their table, and a model that follows it.
#include "model/path_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "backend/cuda/device.h"
#include "common/tiny_checkpoint.h"
#include "fairway/error.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/common/cuda/gpu_features.h"
#include "model/device_model.h"
#include "model/model.h"

namespace fairway::model {
namespace {

// The small model has few calls to tune and, without mul1, few paths for each.
const int kLayers = kernels::cuda::check::by_size(2, 1);
const int kDenseLayers = kLayers - 1;                          // whose MLP is two calls of linear layers
const int kLinearCalls = kernels::cuda::check::by_size(9, 3);  // of a pass

// A small model whose files last as long as this.
class TunedModel {
 public:
  TunedModel() : host_(load()) {}

  DeviceModel device(const std::string& table = "") const {
    return DeviceModel::load(host_, {.pass_rows = 8, .table = table});
  }
  std::string file(const std::string& text) const {
    const std::string path = (dir_.path() / "paths.json").string();
    std::ofstream(path) << text;
    return path;
  }

 private:
  Model load() {
    using Architecture = formats::Architecture;
    const test::TinySpec spec{
        .architecture = kernels::cuda::check::by_size(Architecture::kGlm4MoeLite, Architecture::kQwen3Moe),
        .hidden = 128,
        .layers = kLayers,
        .kv_lora_rank = 64,
        .experts = 4,
        .top_k = 2,
        .expert_intermediate = 128,
        .dense_layers = kDenseLayers,
        .dense_intermediate = 128,
        .codebook = kernels::cuda::check::by_size(codec::Codebook::kMul1, codec::Codebook::k3inst)};
    write_tiny_checkpoint(dir_.path(), spec, test::TinyForm::kExl3);
    return Model::load(dir_.path());
  }

  test::TempDir dir_;
  Model host_;
};

std::string error_of(const std::string& text) {
  try {
    PathTable::parse(text, "paths.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBadInput);
    return e.what();
  }
  return "";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, text.npos) << from;
  return at == text.npos ? text : text.replace(at, from.size(), to);
}

TEST(GpuPathTable, IsTunedWrittenReadAndFollowed) {
  const TunedModel model;
  DeviceModel device = model.device();
  double last = 0;
  bool complete = false;
  const std::vector<int> counts = kernels::cuda::check::by_size<std::vector<int>>({1, 3, 4096}, {1, 4096});
  PathTable table = device.tune_paths(
      {.rows = counts, .rounds = 1, .budget_seconds = 1e6, .progress = [&](double share) { last = share; }}, &complete);
  EXPECT_TRUE(complete);
  EXPECT_NEAR(last, 1.0, 1e-6);
  EXPECT_EQ(device.length(0), 0);
  std::set<int> rows;
  std::set<std::string> ops;
  for (const PathEntry& entry : table.entries) {
    rows.insert(entry.rows);
    ops.insert(entry.row->op);
    EXPECT_GE(entry.us, 0);
    EXPECT_EQ(entry.samples, 1);
    EXPECT_EQ(entry.row, entry.default_row) << "one sample is no proof";
    EXPECT_EQ(entry.us, entry.default_us);
    ASSERT_FALSE(entry.measured.empty());
    EXPECT_EQ(entry.measured.front().row, entry.default_row);
  }
  EXPECT_EQ(rows, std::set<int>(counts.begin(), counts.end() - 1));  // 4096 do not fit a pass
  EXPECT_EQ(ops, (std::set<std::string>{"moe_swiglu", "trellis_linear"}));
  ASSERT_EQ(table.chains.size(), rows.size());
  for (const PathChain& chain : table.chains) {
    EXPECT_EQ(chain.layers, kLayers);
    EXPECT_GT(chain.default_us, 0);
    EXPECT_EQ(chain.us, chain.default_us);
  }

  // What nothing would choose by itself for one row.
  const auto moe = kernels::cuda_rows_of("moe_swiglu"), linear = kernels::cuda_rows_of("trellis_linear");
  const kernels::CudaRow *half_32 = nullptr, *wide = nullptr;
  const std::string other = kernels::cuda::gpu_features().wgmma ? "wg_128" : "half_32";  // of linear layers
  for (const auto& row : moe) half_32 = std::string(row.path) == "half_32" ? &row : half_32;
  for (const auto& row : linear) wide = std::string(row.path) == other ? &row : wide;
  for (PathEntry& entry : table.entries) entry.row = std::string(entry.row->op) == "moe_swiglu" ? half_32 : wide;

  const PathTable read = PathTable::parse(table.json_text(), "paths.json");
  EXPECT_EQ(read.json_text(), table.json_text());
  DeviceModel tuned = model.device(model.file(table.json_text()));
  device = model.device();
  std::vector<float> expected(2 * 320), logits(2 * 320);
  const std::vector<int> ids{5, 17};
  device.forward(ids);
  device.logits(0, 2, expected.data());
  tuned.forward(ids);
  tuned.logits(0, 2, logits.data());
  ASSERT_EQ(tuned.path_calls().size(), 2u);
  EXPECT_EQ(tuned.path_calls().at(half_32->id), kLayers - kDenseLayers);
  EXPECT_GE(tuned.path_calls().at(wide->id), kLinearCalls);
  EXPECT_FALSE(device.path_calls().contains(half_32->id));
  for (std::size_t i = 0; i < logits.size(); ++i) EXPECT_NEAR(logits[i], expected[i], 0.05) << i;
}

TEST(GpuPathTable, WithoutTimeNothingIsWritten) {
  const TunedModel model;
  DeviceModel device = model.device();
  bool complete = true;
  EXPECT_TRUE(device.tune_paths({.rows = {1}, .budget_seconds = 0}, &complete).entries.empty());
  EXPECT_FALSE(complete);
}

TEST(GpuPathTable, OfAnotherGpuOrDamagedIsAnError) {
  const TunedModel model;
  PathTable table;
  table.stamp = this_path_stamp(0);
  EXPECT_NO_THROW(PathTable::load(model.file(table.json_text()), 0));
  table.stamp.gpu = "NVIDIA Abacus";
  try {
    model.device(model.file(table.json_text()));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBadInput);
    EXPECT_NE(std::string(e.what()).find("NVIDIA Abacus"), std::string::npos) << e.what();
  }
  EXPECT_THROW(model.device("/nonexistent/paths.json"), Error);
}

TEST(PathTable, FindsTheNearestSmallerNumberOfRows) {
  const auto rows = kernels::cuda_rows_of("trellis_linear");
  PathTable table;
  for (const int count : {2, 8}) {
    table.entries.push_back({"a", count, &rows[static_cast<std::size_t>(count == 2 ? 0 : 3)], &rows[0], 1, 2, 3});
  }
  EXPECT_EQ(table.find("trellis_linear", "a", 1), nullptr);
  EXPECT_EQ(table.find("trellis_linear", "a", 2)->row, &rows[0]);
  EXPECT_EQ(table.find("trellis_linear", "a", 7)->row, &rows[0]);
  EXPECT_EQ(table.find("trellis_linear", "a", 1000)->row, &rows[3]);
  EXPECT_EQ(table.find("trellis_linear", "b", 8), nullptr);
  EXPECT_EQ(table.find("moe_swiglu", "a", 8), nullptr);
}

TEST(PathTable, DamageIsAnErrorThatSaysWhere) {
  const auto rows = kernels::cuda_rows_of("trellis_linear");
  PathTable table;
  table.entries.push_back(
      {"a", 2, &rows[1], &rows[0], 1, 2, 3, PathReason::kBeaten, {{&rows[0], 2, 3}, {&rows[1], 1, 3}}});
  table.chains.push_back({2, 8, 20, 10});
  const std::string good = table.json_text();
  EXPECT_EQ(error_of(good), "");
  for (std::size_t cut = 0; cut + 2 < good.size(); cut += 7) {
    EXPECT_NE(error_of(good.substr(0, cut)).find("paths.json"), std::string::npos) << cut;
  }
  EXPECT_NE(error_of(replaced(good, rows[1].id, "cuda_sm90/warp/drive")).find("warp/drive"), std::string::npos);
  EXPECT_NE(error_of(replaced(good, "paths-2", "paths-9")).find("paths-9"), std::string::npos);
  EXPECT_NE(error_of(replaced(good, "\"rows\": 2", "\"rows\": 0")), "");
  EXPECT_NE(error_of(replaced(good, "\"rows\": 2,\n   \"kernel\"", "\"rows\": 0,\n   \"kernel\"")), "");
  EXPECT_NE(error_of(replaced(good, "\"rows\": 2", "\"rows\": \"two\"")), "");
  EXPECT_NE(error_of(replaced(good, "\"trellis_linear\"", "\"rope\"")).find("rope"), std::string::npos);
  EXPECT_NE(error_of(replaced(good, "faster than the default", "nicer than the default")).find("nicer"),
            std::string::npos);
  EXPECT_NE(error_of(replaced(good, "\"layers\": 8", "\"layers\": \"all\"")), "");
  EXPECT_NE(error_of("[]"), "");
  EXPECT_NE(error_of("{}"), "");
}

}  // namespace
}  // namespace fairway::model
