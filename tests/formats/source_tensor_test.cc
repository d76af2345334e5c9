// Tensors as floats: every arrangement of fp8 scales, partial blocks, and what is wrong with scales and values.
#include "formats/source_tensor.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "codec/float8.h"
#include "codec/half.h"
#include "formats/model_files.h"

namespace fairway::formats {
namespace {

using test::catch_error;
using test::make_tensor;
using test::TempDir;
using test::TensorMap;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kRows = 5, kColumns = 7;
constexpr Fp8Block kBlock{2, 3};  // the last blocks are one row high and one column wide

std::vector<std::uint8_t> codes() {
  std::vector<std::uint8_t> codes(kRows * kColumns);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(7 * i + 2);  // both signs, no NaN
  return codes;
}

class Fp8Tensor : public testing::Test {
 protected:
  Fp8Tensor() { map_["w"] = make_tensor(TensorType::kF8E4M3, {kRows, kColumns}, codes()); }

  void add_scales(const std::string& name, std::vector<std::int64_t> shape, const std::vector<float>& values) {
    map_[name] = make_tensor(TensorType::kF32, std::move(shape), values);
  }
  const Checkpoint& open() {
    test::write_tensors(dir_.path() / "model.safetensors", map_);
    checkpoint_.emplace(Checkpoint::open(dir_.path()));
    return *checkpoint_;
  }
  std::vector<float> read() {
    const SourceTensor source(open(), "w", kBlock);
    std::vector<float> values(static_cast<std::size_t>(source.count()));
    source.read(0, values);
    return values;
  }
  std::string message_of_reading() {
    const auto caught = catch_error([&] { read(); });
    EXPECT_EQ(caught.kind, ErrorKind::kBadInput) << caught.message;
    EXPECT_THAT(caught.message, HasSubstr((dir_.path() / "model.safetensors").string()));
    return caught.message;
  }

  TempDir dir_;
  TensorMap map_;
  std::optional<Checkpoint> checkpoint_;
};

std::vector<float> counted(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 1.5f);
  return values;
}

TEST_F(Fp8Tensor, BlockScalesReachPartialBlocks) {
  add_scales("w_scale_inv", {3, 3}, counted(9));
  const std::vector<float> values = read();
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      const std::size_t i = static_cast<std::size_t>(r * kColumns + c);
      const int block = r / 2 * 3 + c / 3;
      const float scale = 1.5f + static_cast<float>(block);
      EXPECT_EQ(values[i], codec::float_from_e4m3(codes()[i]) * scale) << r << " " << c;
    }
  }
}

TEST_F(Fp8Tensor, ScalesOfRowsAndOfTheWhole) {
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{kRows}, {kRows, 1}, {1}, {}}) {
    const bool by_row = !shape.empty() && shape[0] == kRows;
    add_scales("w_scale", shape, counted(by_row ? kRows : 1));
    const std::vector<float> values = read();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float scale = 1.5f + static_cast<float>(by_row ? i / kColumns : 0);
      EXPECT_EQ(values[i], codec::float_from_e4m3(codes()[i]) * scale) << shape.size() << " " << i;
    }
  }
}

TEST_F(Fp8Tensor, E5m2AndScalesInBf16) {
  map_["w"].type = TensorType::kF8E5M2;
  for (std::uint8_t& code : map_["w"].bytes) code &= 0x7B;  // no infinities
  map_["w_scale"] = make_tensor(TensorType::kBf16, {1}, std::vector<std::uint16_t>{codec::bfloat_from_float(0.25f)});
  const std::vector<float> values = read();
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], codec::float_from_e5m2(codes()[i] & 0x7B) * 0.25f) << i;
  }
}

TEST_F(Fp8Tensor, AnyPieceIsAPieceOfTheWhole) {
  add_scales("w_scale_inv", {3, 3}, counted(9));
  const std::vector<float> all = read();
  const SourceTensor source(open(), "w", kBlock);
  for (std::size_t first = 0; first <= all.size(); ++first) {
    for (std::size_t count = 0; first + count <= all.size(); ++count) {
      std::vector<float> piece(count, std::nanf(""));
      source.read(static_cast<std::int64_t>(first), piece);
      EXPECT_TRUE(std::equal(piece.begin(), piece.end(), all.begin() + static_cast<std::ptrdiff_t>(first)))
          << first << " " << count;
    }
  }
}

TEST_F(Fp8Tensor, MissingScalesAreNamed) {
  EXPECT_THAT(message_of_reading(), AllOf(HasSubstr("\"w\" is F8_E4M3 of shape [5, 7] and has no scales"),
                                          HasSubstr("w_scale_inv and w_scale")));
}

TEST_F(Fp8Tensor, ScalesOfAnotherShape) {
  add_scales("w_scale_inv", {2, 3}, counted(6));
  EXPECT_THAT(message_of_reading(), AllOf(HasSubstr("\"w_scale_inv\" have shape [2, 3]"), HasSubstr("expected [3, 3]"),
                                          HasSubstr("blocks of 2 x 3")));
}

TEST_F(Fp8Tensor, ScalesThatAreNotFiniteOrNoFloats) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> scales = counted(9);
    scales[8] = bad;
    add_scales("w_scale_inv", {3, 3}, scales);
    EXPECT_THAT(message_of_reading(), AllOf(HasSubstr("\"w_scale_inv\""), HasSubstr("at index 8")));
  }
  map_["w_scale_inv"].type = TensorType::kI32;
  EXPECT_THAT(message_of_reading(), HasSubstr("\"w_scale_inv\" is I32"));
}

TEST_F(Fp8Tensor, ValuesThatAreNotFinite) {
  add_scales("w_scale_inv", {3, 3}, counted(9));
  map_["w"].bytes[33] = 0x7F;  // NaN
  EXPECT_THAT(message_of_reading(), HasSubstr("\"w\" is nan at index 33"));
  map_["w"].bytes[33] = 0x7E;
  map_["w_scale_inv"] = make_tensor(TensorType::kF32, {3, 3}, std::vector<float>(9, 1e38f));
  EXPECT_THAT(message_of_reading(), HasSubstr("expected finite values"));  // 448e38
}

TEST_F(Fp8Tensor, OnlyMatricesHaveScales) {
  map_["w"].shape = {kRows * kColumns};
  add_scales("w_scale_inv", {1}, {1});
  EXPECT_THAT(message_of_reading(), HasSubstr("only matrices"));
}

TEST_F(Fp8Tensor, ALinearIsRefusedOrWidened) {
  map_["m.weight"] = map_["w"];
  add_scales("m.weight_scale_inv", {3, 3}, counted(9));
  add_scales("w_scale_inv", {3, 3}, counted(9));
  const std::vector<float> expected = read();
  const Checkpoint& checkpoint = open();
  const auto refused = catch_error([&] { checkpoint.linear("m", kColumns, kRows); });
  EXPECT_EQ(refused.kind, ErrorKind::kUnsupported);
  EXPECT_THAT(refused.message, AllOf(HasSubstr("model.safetensors: tensor \"m.weight\" is F8_E4M3 of shape [5, 7]"),
                                     HasSubstr("fairway quantize")));

  WidenedMatrices widened{.block = kBlock, .check_only = false, .values = {}};
  const auto linear = checkpoint.linear("m", kColumns, kRows, false, &widened);
  ASSERT_EQ(widened.values.size(), 1u);
  EXPECT_EQ(widened.values[0], expected);
  EXPECT_EQ(linear.dense().type, kernels::DenseType::kF32);
  EXPECT_EQ(linear.dense().data, reinterpret_cast<const std::uint8_t*>(widened.values[0].data()));
  // A padded vocabulary: only the rows of the model.
  const auto cut = checkpoint.linear("m", kColumns, kRows - 1, true, &widened);
  EXPECT_EQ(cut.dense().out, kRows - 1);
  EXPECT_EQ(widened.values[1], std::vector<float>(expected.begin(), expected.end() - kColumns));

  WidenedMatrices checked{.block = kBlock, .check_only = true, .values = {}};
  EXPECT_EQ(checkpoint.linear("m", kColumns, kRows, false, &checked).dense().data, nullptr);
  EXPECT_TRUE(checked.values.empty());
  checked.block = {};
  EXPECT_THAT(catch_error([&] { checkpoint.linear("m", kColumns, kRows, false, &checked); }).message,
              HasSubstr("blocks of 128 x 128"));
}

}  // namespace
}  // namespace fairway::formats
