// The corpus of bad files: each must give one clear error that names file and tensor or key, with bounded memory.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "codec/trellis.h"
#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/heap_meter.h"
#include "formats/model_files.h"
#include "formats/model_layout.h"
#include "formats/safetensors.h"

namespace fairway::formats {
namespace {

using nlohmann::json;
using test::make_tensor;
using test::raw_safetensors;
using test::TempDir;
using test::TensorMap;
using ::testing::HasSubstr;

constexpr std::size_t kSlack = 1u << 20;  // beyond the bytes on disk

std::size_t bytes_on_disk(const std::filesystem::path& dir) {
  std::size_t sum = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.is_regular_file()) sum += entry.file_size();
  }
  return sum;
}

// Runs `step`, which must throw Error, and checks its message and how much the heap grew on the way.
void expect_error(const std::function<void()>& step, const std::filesystem::path& dir,
                  const std::vector<std::string>& parts) {
  test::Caught caught;
  const std::size_t growth = test::heap_growth([&] { caught = test::catch_error(step); });
  ASSERT_FALSE(caught.message.empty()) << "no Error was thrown";
  EXPECT_TRUE(caught.kind == ErrorKind::kBadInput || caught.kind == ErrorKind::kUnsupported) << caught.message;
  EXPECT_THAT(caught.message, ::testing::StartsWith(dir.string()));
  EXPECT_EQ(caught.message.find('\n'), std::string::npos) << caught.message;
  EXPECT_LT(caught.message.size(), 700u) << caught.message;
  for (const auto& part : parts) EXPECT_THAT(caught.message, HasSubstr(part));
  EXPECT_LE(growth, bytes_on_disk(dir) + kSlack);
}

// ---- one safetensors file -------------------------------------------------------------------------------------------

struct BadFile {
  const char* name;
  std::string content;
  std::vector<std::string> parts;  // of the message, besides the file name
};

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + rest;
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets, std::size_t data) {
  return raw_safetensors(fmt::format(R"({{"w":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets),
                         std::string(data, 'x'));
}

std::string two(const std::string& first, const std::string& second, std::size_t data) {
  return raw_safetensors(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                                     R"("b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
                                     first, second),
                         std::string(data, 'x'));
}

std::vector<BadFile> bad_files() {
  const std::string sound = one("\"U8\"", "[4]", "[0,4]", 4);
  const std::string deep(100000, '[');
  const std::string w = "tensor \"w\"";
  return {
      {"empty_file", "", {"0 bytes", "too short"}},
      {"seven_bytes", "1234567", {"7 bytes", "too short"}},
      {"length_zero", with_length(0, "{}"), {"header length is 0"}},
      {"length_2_to_63", with_length(1ull << 63, "{}"), {"9223372036854775808", "10 bytes"}},
      {"length_max", with_length(UINT64_MAX, "{}"), {"18446744073709551615"}},
      {"length_one_too_many", with_length(3, "{}"), {"header length is 3", "10 bytes"}},
      {"truncated_header", sound.substr(0, 30), {"header length", "30 bytes"}},
      {"truncated_data", sound.substr(0, sound.size() - 1), {w, "[0, 4]", "3 bytes"}},
      {"trailing_data", sound + "x", {"byte 4", "5 bytes"}},
      {"header_is_text", with_length(6, "hello "), {"not a JSON object", "\"h\""}},
      {"header_is_array", raw_safetensors("[1]", ""), {"not a JSON object"}},
      {"header_starts_with_space", raw_safetensors(" {}", ""), {"not a JSON object"}},
      {"header_bad_json", raw_safetensors("{\"w\":{", ""), {"invalid JSON"}},
      {"header_two_objects", raw_safetensors("{}{}", ""), {"invalid JSON"}},
      {"header_nul_padding", raw_safetensors(std::string("{}\0\0", 4), ""), {"NUL"}},
      {"header_invalid_utf8", raw_safetensors("{\"\xff\":1}", ""), {"invalid JSON", "\\xff"}},
      {"deep_arrays", raw_safetensors("{\"w\":" + deep, ""), {w, "an array", "an object"}},
      {"deep_objects",
       raw_safetensors(
           [] {
             std::string text;
             for (int i = 0; i < 100000; ++i) text += "{\"a\":";
             return text;
           }(),
           ""),
       {"tensor \"a\"", "unknown key \"a\""}},
      {"deep_metadata", raw_safetensors("{\"__metadata__\":" + deep, ""), {"__metadata__", "an array"}},
      {"entry_is_number", raw_safetensors("{\"w\":3}", ""), {w, "3", "an object"}},
      {"entry_is_null", raw_safetensors("{\"w\":null}", ""), {w, "null"}},
      {"metadata_number", raw_safetensors("{\"__metadata__\":{\"n\":1}}", ""), {"__metadata__", "strings"}},
      {"metadata_string", raw_safetensors("{\"__metadata__\":\"x\"}", ""), {"__metadata__", "a string"}},
      {"metadata_twice", raw_safetensors("{\"__metadata__\":{},\"__metadata__\":{}}", ""), {"__metadata__", "twice"}},
      {"metadata_duplicate", raw_safetensors("{\"__metadata__\":{\"n\":\"\",\"n\":\"\"}}", ""), {"duplicate", "\"n\""}},
      {"no_dtype", raw_safetensors("{\"w\":{\"shape\":[],\"data_offsets\":[0,0]}}", ""), {w, "no dtype"}},
      {"no_shape", raw_safetensors("{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", ""), {w, "no shape"}},
      {"no_offsets", raw_safetensors("{\"w\":{\"dtype\":\"U8\",\"shape\":[0]}}", ""), {w, "no data_offsets"}},
      {"extra_key", raw_safetensors("{\"w\":{\"dtype\":\"U8\",\"extra\":1}}", ""), {w, "unknown key \"extra\""}},
      {"duplicate_key", raw_safetensors("{\"w\":{\"dtype\":\"U8\",\"dtype\":\"I8\"}}", ""), {w, "duplicate", "dtype"}},
      {"dtype_unknown", one("\"Q4\"", "[4]", "[0,4]", 4), {w, "unknown dtype \"Q4\""}},
      {"dtype_number", one("4", "[4]", "[0,4]", 4), {w, "dtype is 4", "a string"}},
      {"dtype_array", one("[\"U8\"]", "[4]", "[0,4]", 4), {w, "dtype is an array"}},
      {"dtype_mismatch", one("\"F32\"", "[4]", "[0,4]", 4), {w, "F32", "[4]", "16 bytes", "give 4"}},
      {"shape_mismatch", one("\"U8\"", "[5]", "[0,4]", 4), {w, "[5]", "5 bytes", "give 4"}},
      {"shape_negative", one("\"U8\"", "[-4]", "[0,4]", 4), {w, "shape", "-4"}},
      {"shape_float", one("\"U8\"", "[4.0]", "[0,4]", 4), {w, "shape", "4.0"}},
      {"shape_string", one("\"U8\"", "\"4\"", "[0,4]", 4), {w, "shape is a string"}},
      {"shape_nested", one("\"U8\"", "[[4]]", "[0,4]", 4), {w, "shape contains an array"}},
      {"shape_overflow", one("\"U8\"", "[1099511627776,1099511627776]", "[0,4]", 4), {w, "1099511627776", "overflows"}},
      {"shape_beyond_int64", one("\"U8\"", "[18446744073709551615]", "[0,4]", 4), {w, "18446744073709551615"}},
      {"shape_long", one("\"U8\"", "[" + std::string(40000, '1') + "]", "[0,4]", 4), {"number overflow", "1111..."}},
      {"shape_rank_17", one("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]", 1), {w, "16 dimensions"}},
      {"offsets_one", one("\"U8\"", "[4]", "[4]", 4), {w, "data_offsets has 1"}},
      {"offsets_three", one("\"U8\"", "[4]", "[0,4,8]", 4), {w, "data_offsets has 3"}},
      {"offsets_negative", one("\"U8\"", "[4]", "[-4,0]", 4), {w, "data_offsets", "-4"}},
      {"offsets_float", one("\"U8\"", "[4]", "[0,4.5]", 4), {w, "data_offsets", "4.5"}},
      {"offsets_bool", one("\"U8\"", "[4]", "[false,4]", 4), {w, "data_offsets", "boolean"}},
      {"offsets_backwards", one("\"U8\"", "[4]", "[4,0]", 4), {w, "backwards"}},
      {"offsets_beyond_file", one("\"U8\"", "[400]", "[0,400]", 4), {w, "[0, 400]", "4 bytes"}},
      {"offsets_huge", one("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]", 4), {w, "beyond the 4 bytes"}},
      {"overlap", two("[0,4]", "[2,6]", 6), {"tensor \"b\"", "overlap tensor \"a\""}},
      {"same_bytes_twice", two("[0,4]", "[0,4]", 4), {"overlap"}},
      {"hole", two("[0,4]", "[6,10]", 10), {"tensor \"b\"", "hole"}},
      {"hole_at_start", two("[1,5]", "[5,9]", 9), {"tensor \"a\"", "hole"}},
      {"duplicate_tensor",
       raw_safetensors(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                       "xx"),
       {w, "twice"}},
      {"control_bytes_in_name", raw_safetensors(R"({"a\nb\"":3})", ""), {"a\\x0ab\\\""}},
      {"very_long_name", raw_safetensors("{\"" + std::string(5000, 'n') + "\":3}", ""), {"nnn..."}},
  };
}

TEST(MalformedSafetensors, EachGivesOneClearError) {
  const auto files = bad_files();
  EXPECT_GE(files.size(), 35u);
  for (const BadFile& file : files) {
    SCOPED_TRACE(file.name);
    const TempDir dir;
    const auto path = dir.path() / "bad.safetensors";
    test::write_file(path, file.content);
    std::vector<std::string> parts = file.parts;
    parts.push_back("bad.safetensors");
    expect_error([&] { SafetensorsFile::open(path); }, dir.path(), parts);
    expect_error([&] { Checkpoint::open(dir.path()); }, dir.path(), parts);
  }
}

TEST(MalformedSafetensors, EveryPrefixOfASoundFileIsRefused) {
  const std::string sound = two("[0,4]", "[4,8]", 8);
  const auto parse = [](const std::string& text) {
    parse_safetensors({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, "f");
  };
  EXPECT_NO_THROW(parse(sound));
  for (std::size_t length = 0; length < sound.size(); ++length) {
    EXPECT_NE(test::catch_error([&] { parse(sound.substr(0, length)); }).message, "") << length;
  }
}

TEST(MalformedSafetensors, WhatIsNotAFile) {
  const TempDir dir;
  std::filesystem::create_directory(dir.path() / "d.safetensors");
  expect_error([&] { SafetensorsFile::open(dir.path() / "d.safetensors"); }, dir.path(), {"not a regular file"});
  expect_error([&] { SafetensorsFile::open(dir.path() / "none"); }, dir.path(), {"none", "No such file"});
  std::filesystem::create_symlink("nowhere", dir.path() / "link.safetensors");
  std::filesystem::remove(dir.path() / "d.safetensors");
  expect_error([&] { Checkpoint::open(dir.path()); }, dir.path(), {"link.safetensors", "No such file"});
}

TEST(HeapMeter, SeesWhatAStepAllocates) {
  const auto grow = [](std::size_t bytes) {
    return test::heap_growth([&] {
      const std::vector<char> block(bytes, 'x');
      EXPECT_EQ(block.back(), 'x');
    });
  };
  EXPECT_GE(grow(5u << 20), 5u << 20);
  EXPECT_LT(grow(1000), 10000u);
}

// ---- whole model directories ----------------------------------------------------------------------------------------

// What a model loader does with a directory, in its order.
void load_everything(const std::filesystem::path& dir) {
  const ModelConfig config = load_model_config(dir);
  const Checkpoint checkpoint = Checkpoint::open(dir);
  visit_linears(config, [&](const LinearSpec& spec) {
    load_linear(checkpoint, spec);
    return true;
  });
  for (const VectorSpec& spec : expected_vectors(config)) checkpoint.read_vector(spec.name, spec.count);
}

// A sound model in memory for a builder to spoil; write() puts it into one file.
struct Model {
  std::filesystem::path dir;
  TensorMap tensors;
  json config;

  test::StoredTensor& operator[](const std::string& name) { return tensors.at(name); }
  void write() const {
    test::write_file(dir / "config.json", config.dump());
    test::write_tensors(dir / "model.safetensors", tensors);
  }
  // Two shards, split by name, and an index that `edit` may spoil.
  void write_shards(const std::function<void(json& weight_map)>& edit) const {
    test::write_file(dir / "config.json", config.dump());
    TensorMap shards[2];
    json map;
    std::size_t count = 0;
    for (const auto& [name, tensor] : tensors) {
      const std::size_t shard = count++ < tensors.size() / 2 ? 0 : 1;
      shards[shard][name] = tensor;
      map[name] = shard == 0 ? "s1.safetensors" : "s2.safetensors";
    }
    test::write_tensors(dir / "s1.safetensors", shards[0]);
    test::write_tensors(dir / "s2.safetensors", shards[1]);
    edit(map);
    test::write_file(dir / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  }
};

void set_half(test::StoredTensor& tensor, std::size_t index, std::uint16_t bits) {
  std::memcpy(tensor.bytes.data() + 2 * index, &bits, sizeof(bits));
}

void set_flag(Model& model, const std::string& name, std::uint32_t value) {
  model.tensors[name] = make_tensor(TensorType::kI32, {}, std::vector<std::uint32_t>{value});
}

struct BadModel {
  const char* name;
  std::function<void(Model&)> build;  // spoils and writes
  std::vector<std::string> parts;
};

const std::string kMlp = "model.layers.1.mlp.";
const std::string kGate = "model.layers.1.mlp.experts.1.gate_proj";  // [8, 8, 16 * bits]
const std::string kAttention = "model.layers.0.self_attn.";

BadModel spoiled(const char* name, const std::function<void(Model&)>& spoil, std::vector<std::string> parts) {
  return {name, [spoil](Model& m) { spoil(m), m.write(); }, std::move(parts)};
}

BadModel bad_config(const char* name, const char* key, const json& value, std::vector<std::string> parts) {
  parts.push_back("config.json");
  return spoiled(
      name, [=](Model& m) { m.config[key] = value; }, std::move(parts));
}

BadModel bad_index(const char* name, const std::function<void(json&)>& edit, std::vector<std::string> parts) {
  return {name, [edit](Model& m) { m.write_shards(edit); }, std::move(parts)};
}

std::vector<BadModel> bad_tensors() {
  const std::string file = "model.safetensors";
  return {
      spoiled("missing_norm", [](Model& m) { m.tensors.erase("model.norm.weight"); },
              {"\"model.norm.weight\" is missing"}),
      spoiled("missing_expert", [](Model& m) { m.tensors.erase(kGate + ".trellis"); }, {kGate, "found only suh, svh"}),
      spoiled("missing_suh", [](Model& m) { m.tensors.erase(kGate + ".suh"); }, {kGate, "found only trellis, svh"}),
      spoiled("missing_head", [](Model& m) { m.tensors.erase("lm_head.trellis"); }, {"lm_head"}),
      spoiled("missing_embedding", [](Model& m) { m.tensors.erase("model.embed_tokens.weight"); },
              {"model.embed_tokens"}),
      spoiled("missing_selection_bias", [](Model& m) { m.tensors.erase(kMlp + "gate.e_score_correction_bias"); },
              {kMlp + "gate.e_score_correction_bias", "missing"}),
      spoiled("router_shape",
              [](Model& m) {
                m[kMlp + "gate.weight"].shape = {4, 64};
              },
              {file, kMlp + "gate.weight", "[4, 64]", "[2, 128]"}),
      spoiled("router_3d",
              [](Model& m) {
                m[kMlp + "gate.weight"].shape = {2, 2, 64};
              },
              {file, kMlp + "gate.weight", "[2, 2, 64]"}),
      spoiled("router_integer", [](Model& m) { m[kMlp + "gate.weight"].type = TensorType::kI16; },
              {file, kMlp + "gate.weight", "I16"}),
      spoiled("trellis_9_bits",
              [](Model& m) {
                m.tensors[kGate + ".trellis"] =
                    make_tensor(TensorType::kI16, {8, 8, 144}, std::vector<std::uint16_t>(8 * 8 * 144));
              },
              {file, kGate + ".trellis", "144", "1 to 8 bits"}),
      spoiled("trellis_0_bits",
              [](Model& m) {
                m.tensors[kGate + ".trellis"] = make_tensor(TensorType::kI16, {8, 8, 0}, std::vector<std::uint16_t>());
              },
              {kGate + ".trellis", "1 to 8 bits"}),
      spoiled("trellis_odd_words",
              [](Model& m) {
                m.tensors[kGate + ".trellis"] =
                    make_tensor(TensorType::kI16, {8, 8, 40}, std::vector<std::uint16_t>(8 * 8 * 40));
              },
              {kGate + ".trellis", "40", "16 * bits"}),
      spoiled("trellis_2d",
              [](Model& m) {
                m[kGate + ".trellis"].shape = {8, std::int64_t(m[kGate + ".trellis"].bytes.size()) / 16};
              },
              {kGate + ".trellis", "[in/16, out/16, 16 * bits]"}),
      spoiled("trellis_type", [](Model& m) { m[kGate + ".trellis"].type = TensorType::kF16; },
              {kGate + ".trellis", "F16", "I16"}),
      spoiled("trellis_transposed_size",
              [](Model& m) {
                auto& shape = m[kGate + ".trellis"].shape;
                shape = {4, 16, shape[2]};
              },
              {kGate + ".trellis", "[4, 16, ", "[8, 8, 16 * bits]"}),
      spoiled("suh_short",
              [](Model& m) {
                m.tensors[kGate + ".suh"] = make_tensor(TensorType::kF16, {127}, std::vector<std::uint16_t>(127));
              },
              {file, kGate + ".suh", "[127]", "[128]"}),
      spoiled("svh_2d",
              [](Model& m) {
                m[kGate + ".svh"].shape = {1, 128};
              },
              {file, kGate + ".svh", "[1, 128]", "[128]"}),
      spoiled("svh_integer", [](Model& m) { m[kGate + ".svh"].type = TensorType::kI16; }, {kGate + ".svh", "I16"}),
      spoiled("svh_nan", [](Model& m) { set_half(m[kGate + ".svh"], 17, 0x7E00); },
              {file, kGate + ".svh", "nan", "index 17"}),
      spoiled("suh_infinite", [](Model& m) { set_half(m[kGate + ".suh"], 0, 0xFC00); },
              {file, kGate + ".suh", "-inf", "index 0"}),
      spoiled("norm_infinite", [](Model& m) { set_half(m["model.norm.weight"], 3, 0x7C00); },
              {file, "\"model.norm.weight\"", "inf", "index 3"}),
      spoiled("norm_length",
              [](Model& m) {
                m.tensors["model.norm.weight"] = make_tensor(TensorType::kF32, {64}, std::vector<float>(64, 1));
              },
              {file, "\"model.norm.weight\"", "[64]", "[128]"}),
      spoiled("norm_integer", [](Model& m) { m["model.norm.weight"].type = TensorType::kU16; },
              {"\"model.norm.weight\"", "U16"}),
      spoiled("selection_bias_nan",
              [](Model& m) {
                m.tensors[kMlp + "gate.e_score_correction_bias"] =
                    make_tensor(TensorType::kF32, {2}, std::vector<float>{0, std::numeric_limits<float>::quiet_NaN()});
              },
              {kMlp + "gate.e_score_correction_bias", "nan", "index 1"}),
      spoiled("both_flags", [](Model& m) { set_flag(m, kGate + ".mcg", codec::kMcgMultiplier); },
              {file, kGate + ".mul1", "mcg"}),
      spoiled("wrong_mul1", [](Model& m) { set_flag(m, kGate + ".mul1", 12345); },
              {file, kGate + ".mul1", "12345", "-2082680531"}),
      spoiled("wrong_mcg",
              [](Model& m) {
                m.tensors.erase(kGate + ".mul1");
                set_flag(m, kGate + ".mcg", codec::kMul1Multiplier);
              },
              {kGate + ".mcg", "-2082680531", "-877912083"}),
      spoiled("flag_shape",
              [](Model& m) {
                m.tensors[kGate + ".mul1"] = make_tensor(TensorType::kI32, {2}, std::vector<std::uint32_t>(2));
              },
              {kGate + ".mul1", "[2]"}),
      spoiled("flag_empty",
              [](Model& m) {
                m.tensors[kGate + ".mul1"] = make_tensor(TensorType::kI32, {0}, std::vector<std::uint32_t>());
              },
              {kGate + ".mul1", "[0]"}),
      spoiled("flag_type", [](Model& m) { m[kGate + ".mul1"].type = TensorType::kF32; },
              {kGate + ".mul1", "F32", "I32"}),
      spoiled("sign_words_short",
              [](Model& m) {
                m.tensors.erase(kGate + ".suh");
                m.tensors[kGate + ".su"] = make_tensor(TensorType::kI16, {7}, std::vector<std::uint16_t>(7));
              },
              {kGate + ".su\"", "[7]", "[8]"}),
      spoiled("bias_length",
              [](Model& m) { m.tensors[kGate + ".bias"] = make_tensor(TensorType::kF32, {5}, std::vector<float>(5)); },
              {kGate + ".bias", "[5]", "[64]"}),
      spoiled("bias_nan",
              [](Model& m) {
                m.tensors[kGate + ".bias"] = make_tensor(TensorType::kF32, {64}, std::vector<float>(64, NAN));
              },
              {kGate + ".bias", "nan", "index 0"}),
      spoiled("trellis_kv_b",
              [](Model& m) {
                for (const char* part : {".trellis", ".suh", ".svh", ".mul1"}) {  // of the same padded size
                  m.tensors[kAttention + "kv_b_proj" + part] = m[kAttention + "q_b_proj" + part];
                }
              },
              {kAttention + "kv_b_proj.trellis", "plain"}),
      spoiled("trellis_router",
              [](Model& m) {
                for (const char* part : {".trellis", ".suh", ".svh", ".mul1"})
                  m.tensors[kMlp + "gate" + part] = m[kGate + part];
              },
              {kMlp + "gate.trellis", "plain"}),
      spoiled("fused_experts",
              [](Model& m) {
                std::erase_if(m.tensors, [](const auto& item) { return item.first.starts_with(kMlp + "experts."); });
                m.tensors[kMlp + "experts.gate_up_proj"] =
                    make_tensor(TensorType::kF16, {2, 4}, std::vector<std::uint16_t>(8));
              },
              {kMlp + "experts.gate_up_proj", "fused expert tensors are not supported"}),
      spoiled("sliced_linear",
              [](Model& m) {
                const std::string down = "model.layers.0.mlp.down_proj";
                m.tensors[down + ".slice.0.trellis"] = m[down + ".trellis"];
                m.tensors.erase(down + ".trellis");
              },
              {"down_proj.slice.0.trellis", "slices are not supported"}),
      spoiled("vocabulary_too_small",
              [](Model& m) {
                m["model.embed_tokens.weight"].shape = {160, 256};
              },
              {"model.embed_tokens.weight", "[160, 256]", "[320 or more, 128]"}),
      spoiled("missing_attention_bias", [](Model& m) { m.config["attention_bias"] = true; },
              {kAttention + "q_a_proj.bias", "missing", "attention_bias"}),
  };
}

std::vector<BadModel> bad_directories() {
  return {
      {"nothing", [](Model&) {}, {"config.json", "No such file"}},
      {"no_tensors", [](Model& m) { test::write_file(m.dir / "config.json", m.config.dump()); }, {"no *.safetensors"}},
      {"no_config",
       [](Model& m) { m.write(), std::filesystem::remove(m.dir / "config.json"); },
       {"config.json", "No such file"}},
      {"config_bad_json",
       [](Model& m) { m.write(), test::write_file(m.dir / "config.json", "{\"a\":"); },
       {"config.json", "invalid JSON"}},
      {"config_empty",
       [](Model& m) { m.write(), test::write_file(m.dir / "config.json", ""); },
       {"config.json", "invalid JSON"}},
      {"config_deep",
       [](Model& m) { m.write(), test::write_file(m.dir / "config.json", std::string(100000, '[')); },
       {"config.json", "deeper than 64"}},
      {"config_duplicate_key",
       [](Model& m) { m.write(), test::write_file(m.dir / "config.json", R"({"a":1,"a":2})"); },
       {"config.json", "duplicate", "\"a\""}},
      {"zero_length_shard",
       [](Model& m) { m.write(), test::write_file(m.dir / "z.safetensors", ""); },
       {"z.safetensors", "0 bytes"}},
      {"same_tensor_in_two_shards",
       [](Model& m) {
         m.write();
         test::write_tensors(m.dir / "other.safetensors", {{"model.norm.weight", m["model.norm.weight"]}});
       },
       {"other.safetensors", "\"model.norm.weight\"", "model.safetensors"}},
      bad_index("index_missing_shard", [](json& map) { map["model.norm.weight"] = "s9.safetensors"; },
                {"index.json", "s9.safetensors", "not in the directory"}),
      bad_index("index_traversal", [](json& map) { map["model.norm.weight"] = "../x.safetensors"; },
                {"index.json", "../x.safetensors", "model.norm.weight", "plain name"}),
      bad_index("index_absolute", [](json& map) { map["model.norm.weight"] = "/etc/passwd"; },
                {"index.json", "/etc/passwd"}),
      bad_index("index_nul", [](json& map) { map["model.norm.weight"] = std::string("s2\0.safetensors", 15); },
                {"index.json", "plain name"}),
      bad_index("index_wrong_shard", [](json& map) { map["model.norm.weight"] = "s1.safetensors"; },
                {"index.json", "\"model.norm.weight\"", "s1.safetensors", "s2.safetensors"}),
      bad_index("index_unknown_tensor", [](json& map) { map["ghost"] = "s1.safetensors"; },
                {"index.json", "\"ghost\"", "s1.safetensors"}),
      bad_index("index_omits_tensor", [](json& map) { map.erase("model.norm.weight"); },
                {"s2.safetensors", "\"model.norm.weight\"", "not listed"}),
      bad_index("index_number", [](json& map) { map["model.norm.weight"] = 2; },
                {"index.json", "model.norm.weight", "string"}),
      bad_index("index_not_a_map", [](json& map) { map = json::array(); }, {"index.json", "weight_map"}),
      {"index_without_files",
       [](Model& m) {
         test::write_file(m.dir / "config.json", m.config.dump());
         test::write_file(m.dir / "model.safetensors.index.json", R"({"weight_map":{"a":"s1.safetensors"}})");
       },
       {"index.json", "s1.safetensors"}},
      {"index_bad_json",
       [](Model& m) { m.write(), test::write_file(m.dir / "model.safetensors.index.json", "{"); },
       {"index.json", "invalid JSON"}},
      bad_config("unknown_architecture", "architectures", {"MambaForCausalLM"}, {"MambaForCausalLM"}),
      bad_config("eight_groups", "n_group", 8, {"n_group", "8"}),
      bad_config("heads_not_divisible", "num_attention_heads", 3, {"num_attention_heads", "3", "2"}),
      bad_config("vocab_negative", "vocab_size", -1, {"vocab_size", "-1"}),
      bad_config("yarn", "rope_parameters", {{"rope_type", "yarn"}}, {"rope_parameters", "yarn"}),
      bad_config("too_many_chosen", "num_experts_per_tok", 3, {"num_experts_per_tok", "3", "2"}),
      spoiled("hidden_other_than_stored", [](Model& m) { m.config["hidden_size"] = 256; },
              {"model.embed_tokens.weight", "[320, 128]", "[320 or more, 256]"}),
      spoiled("more_layers_than_stored",
              [](Model& m) {
                m.config.erase("mlp_layer_types");
                m.config["num_hidden_layers"] = 4096;
              },
              {"model.layers.2.self_attn.q_a_proj", "is missing"}),
  };
}

void check_models(const std::vector<BadModel>& models) {
  const TempDir sound;
  test::write_tiny_checkpoint(sound.path(), test::smallest_spec(Architecture::kGlm4MoeLite), test::TinyForm::kExl3);
  const TensorMap tensors = test::read_tensors(sound.path() / "model.safetensors");
  const json config = json::parse(test::read_file(sound.path() / "config.json"));
  EXPECT_NO_THROW(load_everything(sound.path()));
  for (const BadModel& bad : models) {
    SCOPED_TRACE(bad.name);
    const TempDir dir;
    Model model{dir.path(), tensors, config};
    bad.build(model);
    expect_error([&] { load_everything(dir.path()); }, dir.path(), bad.parts);
    std::vector<::testing::Matcher<std::string>> matchers;
    for (const auto& part : bad.parts) matchers.push_back(HasSubstr(part));
    EXPECT_THAT(check_model_dir(dir.path()), ::testing::Contains(::testing::AllOfArray(matchers)));
  }
}

TEST(MalformedModel, TensorsThatDoNotFit) {
  check_models(bad_tensors());
}

TEST(MalformedModel, DirectoriesThatDoNotFit) {
  check_models(bad_directories());
}

}  // namespace
}  // namespace fairway::formats
