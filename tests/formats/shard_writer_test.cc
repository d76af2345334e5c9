// Shards: tensors keep their order, no shard is larger than it may be, and the reader accepts index and files.
#include "formats/shard_writer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/tiny_checkpoint.h"
#include "fairway/error.h"
#include "formats/checkpoint.h"
#include "formats/exl3_storage.h"

namespace fairway::formats {
namespace {

namespace fs = std::filesystem;

std::vector<std::uint8_t> content(std::size_t i, std::size_t bytes) {
  return std::vector<std::uint8_t>(bytes, static_cast<std::uint8_t>(i + 1));
}

std::vector<std::string> write_all(const fs::path& dir, const std::vector<std::int64_t>& sizes, std::int64_t most) {
  std::vector<TensorSpec> specs;
  for (std::size_t i = 0; i < sizes.size(); ++i)
    specs.push_back({"t" + std::to_string(i), TensorType::kU8, {sizes[i]}});
  ShardWriter writer(dir, specs, most);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto bytes = content(i, static_cast<std::size_t>(sizes[i]));
    writer.write(std::span(bytes).first(bytes.size() / 2));
    writer.write(std::span(bytes).subspan(bytes.size() / 2));
  }
  writer.finish();
  EXPECT_EQ(writer.share(), 1.0);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(ShardWriter, CutsAtTheLimit) {
  const test::TempDir dir;
  const std::vector<std::int64_t> sizes = {60, 40, 1, 0, 99, 250, 0, 5};  // one tensor is larger than a shard
  const auto names = write_all(dir.path(), sizes, 100);
  const std::vector<std::string> expected = {"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                             "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                             "model.safetensors.index.json"};
  EXPECT_EQ(names, expected);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const TensorView& tensor = checkpoint.require("t" + std::to_string(i));
    const auto bytes = content(i, static_cast<std::size_t>(sizes[i]));
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), bytes.begin(), bytes.end())) << i;
  }
  EXPECT_EQ(checkpoint.file_of(checkpoint.require("t4")).filename(), expected[1]);
  EXPECT_EQ(checkpoint.file_of(checkpoint.require("t5")).filename(), expected[2]);
  const auto index = nlohmann::json::parse(std::ifstream(dir.path() / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 455);
}

TEST(ShardWriter, OneFileHasNoIndex) {
  const test::TempDir dir;
  EXPECT_EQ(write_all(dir.path(), {60, 40}, 100), (std::vector<std::string>{"model.safetensors"}));
}

TEST(ShardWriter, UnfinishedShardsAreRemoved) {
  const test::TempDir dir;
  {
    ShardWriter writer(dir.path(), {{"a", TensorType::kU8, {80}}, {"b", TensorType::kU8, {80}}}, 100);
    writer.write(content(0, 80));
    writer.write(content(1, 10));  // the first shard is finished now
    EXPECT_TRUE(fs::exists(dir.path() / "model-00001-of-00002.safetensors"));
    EXPECT_THROW(writer.finish(), Error);  // 70 bytes are missing
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Exl3Storage, DescribesModulesInOrder) {
  std::vector<TensorSpec> tensors = exl3_tensors("a.b", 256, 128, 5, codec::Codebook::kMcg);
  tensors.push_back({"a.norm.weight", TensorType::kBf16, {256}});
  tensors.push_back({"a.b.bias", TensorType::kF16, {128}});
  const nlohmann::ordered_json storage = tensor_storage(tensors);
  ASSERT_EQ(storage.size(), 2u);
  EXPECT_EQ(storage.begin().key(), "a.b");
  const auto& linear = storage["a.b"];
  EXPECT_EQ(linear["bits_per_weight"], 5);
  EXPECT_EQ(linear["mcg_multiplier"], 0xCBAC1FEDu);
  EXPECT_EQ(linear["stored_tensors"].size(), 5u);
  EXPECT_EQ(linear["stored_tensors"]["a.b.trellis"]["n_bytes"], 256 * 128 * 5 / 8);
  EXPECT_EQ(linear["stored_tensors"]["a.b.mcg"]["shape"].dump(), "[]");
  EXPECT_EQ(storage["a.norm"]["stored_tensors"]["a.norm.weight"]["dtype"], "torch.bfloat16");
  EXPECT_EQ(exl3_tensors("x", 128, 128, 1, codec::Codebook::k3inst).size(), 3u);  // no flag
}

}  // namespace
}  // namespace fairway::formats
