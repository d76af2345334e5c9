// What a sound safetensors file gives back; what is refused stands in malformed_test.cc.
#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "formats/model_files.h"

namespace fairway::formats {
namespace {

using test::raw_safetensors;

std::vector<TensorView> parse(const std::string& file) {
  return parse_safetensors({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()}, "memory");
}

TEST(TensorTypes, NamesAreInverseAndSizesAreThoseOfTheFormat) {
  const std::map<std::string, int> sizes = {{"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                                            {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                                            {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
  for (const auto& [name, bytes] : sizes) {
    const auto type = tensor_type_from_name(name);
    ASSERT_TRUE(type) << name;
    EXPECT_EQ(tensor_type_name(*type), name);
    EXPECT_EQ(tensor_type_bytes(*type), bytes) << name;
  }
  EXPECT_FALSE(tensor_type_from_name("F4"));
  EXPECT_FALSE(tensor_type_from_name("f32"));
}

TEST(Safetensors, ReadsTensorsInNameOrderWhateverTheirPlace) {
  const std::string file = raw_safetensors(R"({"b":{"data_offsets":[0,4],"shape":[2],"dtype":"I16"},)"
                                           R"( "a":{"dtype":"U8","shape":[1,3],"data_offsets":[4,7]}}  )",
                                           "BBBBaaa");
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].shape, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(std::string(tensors[0].bytes.begin(), tensors[0].bytes.end()), "aaa");
  EXPECT_EQ(tensors[1].type, TensorType::kI16);
  EXPECT_EQ(std::string(tensors[1].bytes.begin(), tensors[1].bytes.end()), "BBBB");
}

TEST(Safetensors, ScalarsEmptyTensorsAndMetadata) {
  const auto tensors = parse(raw_safetensors(R"({"__metadata__":{"format":"pt","note":"dtype"},)"
                                             R"("none":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},)"
                                             R"("flag":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})",
                                             "1234"));
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_TRUE(tensors[0].shape.empty());
  EXPECT_EQ(tensors[0].bytes.size(), 4u);
  EXPECT_TRUE(tensors[1].bytes.empty());
  EXPECT_TRUE(parse(raw_safetensors("{}", "")).empty());
}

TEST(Safetensors, ManyTensors) {
  constexpr int kCount = 30000;  // about a 30B MoE checkpoint
  std::string header = "{", data;
  for (int i = 0; i < kCount; ++i) {
    if (i > 0) header += ',';
    header += "\"model.layers.t" + std::to_string(i) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
    data += static_cast<char>(i % 251);
  }
  const std::string file = raw_safetensors(header + "}", data);
  const auto tensors = parse(file);
  ASSERT_EQ(tensors.size(), static_cast<std::size_t>(kCount));
  for (const TensorView& tensor : tensors) {
    const int i = std::stoi(tensor.name.substr(std::string("model.layers.t").size()));
    ASSERT_EQ(tensor.bytes[0], i % 251);
  }
}

TEST(Safetensors, OpensTheBundledModel) {
  const auto path = std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models/books-moe/model.safetensors";
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensors().size(), 2972u);
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.file_bytes(), static_cast<std::int64_t>(std::filesystem::file_size(path)));
  const TensorView* head = file.find("lm_head.trellis");
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(head->type, TensorType::kI16);
  EXPECT_EQ(head->shape, (std::vector<std::int64_t>{24, 512, 64}));
  EXPECT_EQ(head->bytes.size(), 24u * 512 * 64 * 2);
  EXPECT_EQ(file.find("lm_head.trellis2"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
}

TEST(Safetensors, TensorsOutliveTheHandleTheyCameFromThroughACopy) {
  const auto path = std::filesystem::path(FAIRWAY_SOURCE_DIR) / "models/books-moe/model.safetensors";
  const SafetensorsFile copy = [&] { return SafetensorsFile(SafetensorsFile::open(path)); }();
  const TensorView* flag = copy.find("lm_head.mul1");
  ASSERT_NE(flag, nullptr);
  std::uint32_t value;
  std::memcpy(&value, flag->bytes.data(), sizeof(value));
  EXPECT_EQ(value, 0x83DCD12Du);
}

}  // namespace
}  // namespace fairway::formats
