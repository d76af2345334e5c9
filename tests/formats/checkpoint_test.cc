// Checkpoints that must open: shards, indexes, every form of a linear, and a clean bill for sound directories.
#include "formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "codec/half.h"
#include "formats/config.h"
#include "formats/model_files.h"
#include "formats/model_layout.h"

namespace fairway::formats {
namespace {

using test::catch_error;
using test::make_tensor;
using test::TempDir;
using test::TensorMap;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::filesystem::path kBundled = std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models/books-moe";

// One trellis linear "m" with distinct scale values; the codes do not matter here.
TensorMap trellis_module(int in_tiles, int out_tiles, int bits) {
  const auto halves = [](int count, int offset) {
    std::vector<std::uint16_t> values;
    for (int i = 0; i < count; ++i) values.push_back(codec::half_from_float(static_cast<float>(i + offset)));
    return values;
  };
  const std::int64_t words = std::int64_t{16} * bits;
  TensorMap map;
  map["m.trellis"] = make_tensor(TensorType::kI16, {in_tiles, out_tiles, words},
                                 std::vector<std::uint16_t>(static_cast<std::size_t>(in_tiles * out_tiles * words), 7));
  map["m.suh"] = make_tensor(TensorType::kF16, {16 * in_tiles}, halves(16 * in_tiles, 1));
  map["m.svh"] = make_tensor(TensorType::kF16, {16 * out_tiles}, halves(16 * out_tiles, 2));
  return map;
}

Checkpoint open_tensors(const TempDir& dir, const TensorMap& map) {
  test::write_tensors(dir.path() / "model.safetensors", map);
  return Checkpoint::open(dir.path());
}

test::StoredTensor flag(std::uint32_t multiplier, std::vector<std::int64_t> shape = {}) {
  return make_tensor(TensorType::kI32, std::move(shape), std::vector<std::uint32_t>{multiplier});
}

TEST(Checkpoint, BundledModelHasEveryTensorOfItsLayout) {
  const Checkpoint checkpoint = Checkpoint::open(kBundled);
  const ModelConfig config = load_model_config(kBundled);
  EXPECT_EQ(checkpoint.tensors().size(), 2972u);
  EXPECT_EQ(checkpoint.directory(), kBundled);
  EXPECT_EQ(checkpoint.file_of(checkpoint.require("lm_head.suh")).filename(), "model.safetensors");
  std::set<std::string> used;
  std::set<int> expert_widths;
  for (const LinearSpec& spec : expected_linears(config)) {
    const auto linear = load_linear(checkpoint, spec);
    EXPECT_EQ(linear.in, spec.in);
    EXPECT_EQ(linear.out, spec.out);
    EXPECT_EQ(linear.is_trellis(), !spec.dense_only) << spec.prefix;
    if (!linear.is_trellis()) {
      used.insert(spec.prefix + ".weight");
      continue;
    }
    EXPECT_EQ(linear.trellis().codebook, codec::Codebook::kMul1);
    if (spec.role == LinearRole::kExpert) expert_widths.insert(linear.trellis().bits);
    for (const char* part : {".trellis", ".suh", ".svh", ".mul1"}) used.insert(spec.prefix + part);
  }
  for (const VectorSpec& spec : expected_vectors(config)) {
    EXPECT_EQ(checkpoint.read_vector(spec.name, spec.count).size(), static_cast<std::size_t>(spec.count));
    used.insert(spec.name);
  }
  EXPECT_GE(expert_widths.size(), 3u);
  // The layout names every tensor of the file, so nothing of the model is left unread.
  for (const TensorView* tensor : checkpoint.tensors()) EXPECT_TRUE(used.contains(tensor->name)) << tensor->name;
}

TEST(Checkpoint, TrellisLinearWithPaddingAndScales) {
  const TempDir dir;
  const Checkpoint checkpoint = open_tensors(dir, trellis_module(16, 8, 5));
  const auto linear = checkpoint.linear("m", 200, 100);
  EXPECT_EQ(linear.in, 200);
  EXPECT_EQ(linear.out, 100);
  ASSERT_TRUE(linear.is_trellis());
  const auto& trellis = linear.trellis();
  EXPECT_EQ(trellis.in, 256);
  EXPECT_EQ(trellis.out, 128);
  EXPECT_EQ(trellis.bits, 5);
  EXPECT_EQ(trellis.codebook, codec::Codebook::k3inst);
  EXPECT_EQ(trellis.words, checkpoint.require("m.trellis").bytes.data());
  EXPECT_EQ(trellis.suh[255], 256.0f);
  EXPECT_EQ(trellis.svh[0], 2.0f);
  EXPECT_EQ(trellis.bias, nullptr);
  // Reading again shares the converted vectors instead of growing.
  EXPECT_EQ(checkpoint.linear("m", 200, 100).trellis().suh, trellis.suh);
}

TEST(Checkpoint, EqualScalesHaveOneAddress) {
  const TempDir dir;
  TensorMap map = trellis_module(8, 8, 2);
  for (const char* part : {"trellis", "suh", "svh"}) map[std::string("n.") + part] = map[std::string("m.") + part];
  map["o.trellis"] = map["m.trellis"];
  map["o.suh"] = map["o.svh"] = map["m.svh"];
  const Checkpoint checkpoint = open_tensors(dir, map);
  const auto m = checkpoint.linear("m", 128, 128).trellis(), n = checkpoint.linear("n", 128, 128).trellis(),
             o = checkpoint.linear("o", 128, 128).trellis();
  EXPECT_EQ(m.suh, n.suh);
  EXPECT_NE(m.suh, o.suh);
}

TEST(Checkpoint, ThreadsReadTheSameLinearsAtOnce) {
  const Checkpoint checkpoint = Checkpoint::open(kBundled);
  const auto scales = [&] {
    std::vector<const float*> pointers;
    for (int e = 0; e < 32; ++e) {
      const auto linear = checkpoint.linear("model.layers.1.mlp.experts." + std::to_string(e) + ".up_proj", 384, 128);
      pointers.push_back(linear.trellis().suh);
    }
    return pointers;
  };
  std::vector<const float*> first, second;
  std::thread a([&] { first = scales(); });
  std::thread b([&] { second = scales(); });
  a.join();
  b.join();
  EXPECT_EQ(first, second);
}

TEST(Checkpoint, CodebookFlags) {
  for (const auto& shape : {std::vector<std::int64_t>{}, std::vector<std::int64_t>{1}}) {
    TensorMap map = trellis_module(8, 8, 1);
    const TempDir mcg, mul1;
    map["m.mcg"] = flag(codec::kMcgMultiplier, shape);
    EXPECT_EQ(open_tensors(mcg, map).linear("m", 128, 128).trellis().codebook, codec::Codebook::kMcg);
    map.erase("m.mcg");
    map["m.mul1"] = flag(codec::kMul1Multiplier, shape);
    EXPECT_EQ(open_tensors(mul1, map).linear("m", 128, 128).trellis().codebook, codec::Codebook::kMul1);
  }
}

TEST(Checkpoint, LegacySignWordsExpandLeastSignificantBitFirst) {
  const TempDir dir;
  TensorMap map = trellis_module(8, 8, 2);
  map.erase("m.suh");
  map.erase("m.svh");
  std::vector<std::uint16_t> su(8, 0), sv(8, 0xFFFF);
  su[0] = 0x0001;
  su[1] = 0x8000;
  map["m.su"] = make_tensor(TensorType::kI16, {8}, su);
  map["m.sv"] = make_tensor(TensorType::kI16, {8}, sv);
  const Checkpoint checkpoint = open_tensors(dir, map);
  const auto linear = checkpoint.linear("m", 128, 128);
  for (int i = 0; i < 128; ++i) {
    EXPECT_EQ(linear.trellis().suh[i], i == 0 || i == 31 ? -1.0f : 1.0f) << i;
    EXPECT_EQ(linear.trellis().svh[i], -1.0f) << i;
  }
}

TEST(Checkpoint, BiasOfExactOrPaddedLength) {
  for (const int length : {100, 128}) {
    const TempDir dir;
    TensorMap map = trellis_module(8, 8, 3);
    map["m.bias"] = make_tensor(TensorType::kF32, {length}, std::vector<float>(static_cast<std::size_t>(length), 0.5f));
    const Checkpoint checkpoint = open_tensors(dir, map);
    const auto linear = checkpoint.linear("m", 128, 100);
    ASSERT_NE(linear.trellis().bias, nullptr);
    EXPECT_EQ(linear.trellis().bias[99], 0.5f);
    EXPECT_EQ(linear.trellis().bias[127], length == 100 ? 0.0f : 0.5f);
  }
  const TempDir dir;
  TensorMap map;
  map["m.weight"] = make_tensor(TensorType::kBf16, {3, 2}, std::vector<std::uint16_t>(6, 0x3F80));
  map["m.bias"] = make_tensor(TensorType::kBf16, {3}, std::vector<std::uint16_t>{0x3F80, 0x4000, 0xBF80});
  const Checkpoint checkpoint = open_tensors(dir, map);
  const auto linear = checkpoint.linear("m", 2, 3);
  EXPECT_THAT(std::vector<float>(linear.dense().bias, linear.dense().bias + 3), ElementsAre(1.0f, 2.0f, -1.0f));
}

TEST(Checkpoint, DenseLinearOfEveryTypeAndPaddedVocabulary) {
  const std::pair<TensorType, kernels::DenseType> types[] = {{TensorType::kF32, kernels::DenseType::kF32},
                                                             {TensorType::kF16, kernels::DenseType::kF16},
                                                             {TensorType::kBf16, kernels::DenseType::kBf16}};
  for (const auto& [stored, expected] : types) {
    const TempDir dir;
    const auto size = static_cast<std::size_t>(6 * tensor_type_bytes(stored));
    const Checkpoint checkpoint =
        open_tensors(dir, {{"m.weight", {stored, {3, 2}, std::vector<std::uint8_t>(size, 1)}}});
    const auto linear = checkpoint.linear("m", 2, 3);
    EXPECT_EQ(linear.dense().type, expected);
    EXPECT_EQ(linear.dense().data, checkpoint.require("m.weight").bytes.data());
    const auto cut = checkpoint.linear("m", 2, 2, true);
    EXPECT_EQ(cut.out, 2);
    EXPECT_EQ(cut.dense().out, 2);
    EXPECT_THAT(catch_error([&] { checkpoint.linear("m", 2, 2); }).message, HasSubstr("expected [2, 2]"));
    EXPECT_THAT(catch_error([&] { checkpoint.linear("m", 2, 4, true); }).message, HasSubstr("expected [4 or more, 2]"));
  }
}

TEST(Checkpoint, PaddedTrellisHead) {
  const TempDir dir;
  const Checkpoint checkpoint = open_tensors(dir, trellis_module(8, 24, 6));
  EXPECT_EQ(checkpoint.linear("m", 128, 200, true).trellis().out, 384);
  EXPECT_THAT(catch_error([&] { checkpoint.linear("m", 128, 200); }).message, HasSubstr("expected [8, 16, 16 * bits]"));
}

TEST(Checkpoint, TrellisWinsOverWeight) {
  const TempDir dir;
  TensorMap map = trellis_module(8, 8, 4);
  map["m.weight"] = make_tensor(TensorType::kF32, {1}, std::vector<float>{1});
  const Checkpoint checkpoint = open_tensors(dir, map);
  EXPECT_TRUE(checkpoint.has_trellis("m"));
  EXPECT_TRUE(checkpoint.linear("m", 128, 128).is_trellis());
}

TEST(Checkpoint, HasLinear) {
  const TempDir dir;
  TensorMap map = trellis_module(8, 8, 4);
  map["w.weight"] = make_tensor(TensorType::kF32, {1, 1}, std::vector<float>{1});
  map["half.trellis"] = map["m.trellis"];
  const Checkpoint checkpoint = open_tensors(dir, map);
  EXPECT_TRUE(checkpoint.has_linear("m"));
  EXPECT_TRUE(checkpoint.has_linear("w"));
  EXPECT_FALSE(checkpoint.has_trellis("w"));
  EXPECT_FALSE(checkpoint.has_linear("half"));
  EXPECT_FALSE(checkpoint.has_linear("absent"));
  EXPECT_THAT(catch_error([&] { checkpoint.linear("half", 128, 128); }).message, HasSubstr("found only trellis"));
}

TEST(Checkpoint, ReadVectorConvertsEveryFloatType) {
  const TempDir dir;
  const Checkpoint checkpoint =
      open_tensors(dir, {{"f64", make_tensor(TensorType::kF64, {2}, std::vector<double>{0.5, -3})},
                         {"f32", make_tensor(TensorType::kF32, {2}, std::vector<float>{0.5f, -3})},
                         {"f16", make_tensor(TensorType::kF16, {2}, std::vector<std::uint16_t>{0x3800, 0xC200})},
                         {"bf16", make_tensor(TensorType::kBf16, {2}, std::vector<std::uint16_t>{0x3F00, 0xC040})},
                         {"i16", make_tensor(TensorType::kI16, {2}, std::vector<std::uint16_t>{1, 2})}});
  for (const char* name : {"f64", "f32", "f16", "bf16"}) {
    EXPECT_THAT(checkpoint.read_vector(name, 2), ElementsAre(0.5f, -3.0f)) << name;
    EXPECT_EQ(checkpoint.read_vector(name, -1).size(), 2u);
  }
  EXPECT_THAT(catch_error([&] { checkpoint.read_vector("f32", 3); }).message,
              AllOf(HasSubstr("model.safetensors"), HasSubstr("\"f32\""), HasSubstr("[2]"), HasSubstr("[3]")));
  EXPECT_THAT(catch_error([&] { checkpoint.read_vector("i16", 2); }).message, HasSubstr("I16"));
  EXPECT_THAT(catch_error([&] { checkpoint.read_vector("absent", 2); }).message,
              AllOf(HasSubstr(dir.path().string()), HasSubstr("\"absent\" is missing")));
}

TEST(Checkpoint, ShardsWithAndWithoutIndexAndThroughLinks) {
  const TempDir store, dir;
  const auto scalar = [](float v) { return make_tensor(TensorType::kF32, {1}, std::vector<float>{v}); };
  test::write_tensors(store.path() / "blob1", {{"a", scalar(1)}, {"c", scalar(3)}});
  test::write_tensors(dir.path() / "model-00002-of-00002.safetensors", {{"b", scalar(2)}});
  std::filesystem::create_symlink(store.path() / "blob1", dir.path() / "model-00001-of-00002.safetensors");
  test::write_file(dir.path() / "._model.safetensors", "left by another system");
  for (const bool with_index : {false, true}) {
    if (with_index) {
      const nlohmann::json index = {{"metadata", {{"total_size", 12}}},
                                    {"weight_map",
                                     {{"a", "model-00001-of-00002.safetensors"},
                                      {"b", "model-00002-of-00002.safetensors"},
                                      {"c", "model-00001-of-00002.safetensors"}}}};
      test::write_file(dir.path() / "model.safetensors.index.json", index.dump());
    }
    Checkpoint first = Checkpoint::open(dir.path());
    const Checkpoint checkpoint = std::move(first);
    EXPECT_EQ(checkpoint.tensors().size(), 3u);
    EXPECT_EQ(checkpoint.read_vector("b", 1)[0], 2.0f);
    EXPECT_EQ(checkpoint.file_of(checkpoint.require("c")).filename(), "model-00001-of-00002.safetensors");
    EXPECT_EQ(checkpoint.file_bytes(),
              static_cast<std::int64_t>(std::filesystem::file_size(store.path() / "blob1") +
                                        std::filesystem::file_size(dir.path() / "model-00002-of-00002.safetensors")));
  }
}

TEST(CheckModelDir, SoundDirectoriesHaveNoProblems) {
  EXPECT_THAT(check_model_dir(kBundled), IsEmpty());
  for (const auto architecture : {Architecture::kGlm4MoeLite, Architecture::kDeepseekV3, Architecture::kQwen3Moe}) {
    for (const auto form : {test::TinyForm::kExl3, test::TinyForm::kDequantizedF32}) {
      for (const int q_lora_rank : {0, 128}) {
        const TempDir dir;
        test::TinySpec spec = test::smallest_spec(architecture);
        spec.q_lora_rank = q_lora_rank;
        test::write_tiny_checkpoint(dir.path(), spec, form);
        EXPECT_THAT(check_model_dir(dir.path()), IsEmpty());
      }
    }
  }
}

TEST(CheckModelDir, TiedHeadMayBeAbsentAndAQuantizedOneWins) {
  const TempDir dir;
  test::TinySpec spec = test::smallest_spec(Architecture::kQwen3Moe);
  spec.tie_word_embeddings = true;
  test::write_tiny_checkpoint(dir.path(), spec, test::TinyForm::kExl3);
  const ModelConfig config = load_model_config(dir.path());
  EXPECT_THAT(check_model_dir(dir.path()), IsEmpty());
  EXPECT_TRUE(uses_tied_head(config, Checkpoint::open(dir.path())));

  TensorMap map = test::read_tensors(dir.path() / "model.safetensors");
  map["lm_head.weight"] = map["model.embed_tokens.weight"];
  test::write_tensors(dir.path() / "model.safetensors", map);
  EXPECT_TRUE(uses_tied_head(config, Checkpoint::open(dir.path())));

  spec.tie_word_embeddings = false;
  const TempDir untied;
  test::write_tiny_checkpoint(untied.path(), spec, test::TinyForm::kExl3);
  EXPECT_FALSE(uses_tied_head(load_model_config(untied.path()), Checkpoint::open(untied.path())));
  EXPECT_FALSE(uses_tied_head(config, Checkpoint::open(untied.path())));  // tied, but a trellis lm_head is stored
}

TEST(CheckModelDir, ListsEveryProblemNotOnlyTheFirst) {
  const TempDir dir;
  test::write_tiny_checkpoint(dir.path(), test::smallest_spec(Architecture::kGlm4MoeLite), test::TinyForm::kExl3);
  const auto path = dir.path() / "model.safetensors";
  TensorMap map = test::read_tensors(path);
  map.erase("model.norm.weight");
  map.erase("model.layers.1.mlp.experts.1.up_proj.svh");
  map["model.layers.0.self_attn.o_proj.mcg"] = flag(codec::kMcgMultiplier);
  test::write_tensors(path, map);
  const auto problems = check_model_dir(dir.path());
  EXPECT_EQ(problems.size(), 3u);
  EXPECT_THAT(problems, Contains(HasSubstr("\"model.norm.weight\" is missing")));
  EXPECT_THAT(problems, Contains(HasSubstr("experts.1.up_proj")));
  EXPECT_THAT(problems, Contains(HasSubstr("o_proj.mul1")));
}

TEST(CheckModelDir, GoesOnAfterABrokenConfigAndABrokenShard) {
  const TempDir dir;
  test::write_file(dir.path() / "config.json", "{");
  test::write_file(dir.path() / "a.safetensors", "short");
  test::write_file(dir.path() / "b.safetensors", "");
  const auto problems = check_model_dir(dir.path());
  ASSERT_EQ(problems.size(), 3u);
  EXPECT_THAT(problems, Contains(HasSubstr("config.json")));
  EXPECT_THAT(problems, Contains(HasSubstr("a.safetensors")));
  EXPECT_THAT(problems, Contains(HasSubstr("b.safetensors")));
}

TEST(CheckModelDir, CountsWhatIsBeyondFiftyLines) {
  const TempDir dir;
  std::filesystem::copy(kBundled / "config.json", dir.path() / "config.json");
  test::write_tensors(dir.path() / "model.safetensors", {});
  const auto problems = check_model_dir(dir.path());
  ASSERT_EQ(problems.size(), 51u);
  // 8 layers of 5 attention linears; one dense MLP; 7 layers of router, 32 experts and a shared one; embedding, head.
  const int linears = 8 * 5 + 3 + 7 * (1 + 33 * 3) + 2;
  const int vectors = 8 * 4 + 7 + 1;
  EXPECT_EQ(problems.back(), "and " + std::to_string(linears + vectors - 50) + " more");
}

TEST(Layout, NamesOfEachArchitecture) {
  const auto names = [](const test::TinySpec& spec) {
    const TempDir dir;
    test::write_tiny_checkpoint(dir.path(), spec, test::TinyForm::kExl3);
    std::set<std::string> set;
    const ModelConfig config = load_model_config(dir.path());
    for (const auto& linear : layer_linears(config, 1)) set.insert(linear.prefix);
    for (const auto& vector : layer_vectors(config, 1)) set.insert(vector.name);
    return set;
  };
  const auto qwen = names(test::smallest_spec(Architecture::kQwen3Moe));
  EXPECT_THAT(qwen, Contains("model.layers.1.self_attn.k_norm.weight"));
  EXPECT_THAT(qwen, Contains("model.layers.1.mlp.experts.1.down_proj"));
  EXPECT_FALSE(qwen.contains("model.layers.1.mlp.gate.e_score_correction_bias"));
  const auto glm = names(test::smallest_spec(Architecture::kGlm4MoeLite));
  EXPECT_THAT(glm, Contains("model.layers.1.mlp.gate.e_score_correction_bias"));
  EXPECT_THAT(glm, Contains("model.layers.1.mlp.shared_experts.gate_proj"));
  EXPECT_THAT(glm, Contains("model.layers.1.self_attn.q_a_layernorm.weight"));
  EXPECT_FALSE(glm.contains("model.layers.1.self_attn.q_proj"));
}

}  // namespace
}  // namespace fairway::formats
