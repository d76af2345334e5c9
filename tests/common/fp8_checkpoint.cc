// A small random model directory twice: with fp8 matrices, and with the floats that these stand for.
#include "common/fp8_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "codec/float8.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace fairway::test {
namespace {

using formats::TensorType;

struct Tensor {
  formats::TensorSpec spec;
  std::vector<std::uint8_t> bytes;
};

template <class T>
Tensor tensor_of(const std::string& name, TensorType type, std::vector<std::int64_t> shape,
                 const std::vector<T>& values) {
  Tensor tensor{{name, type, std::move(shape)}, std::vector<std::uint8_t>(values.size() * sizeof(T))};
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

std::uint8_t nearest_e4m3(float value) {
  std::uint8_t best = 0;
  for (int bits = 0; bits < 256; ++bits) {
    const float candidate = codec::float_from_e4m3(static_cast<std::uint8_t>(bits));
    if (std::abs(candidate - value) < std::abs(codec::float_from_e4m3(best) - value)) {
      best = static_cast<std::uint8_t>(bits);  // NaN is never nearer
    }
  }
  return best;
}

// What one matrix becomes.
struct Fp8Matrix {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
  std::int64_t scale_rows, scale_columns;
};

// Rounds the values to what the codes and scales stand for.
Fp8Matrix encode(std::vector<float>& values, std::int64_t rows, std::int64_t columns, formats::Fp8Block block) {
  Fp8Matrix matrix{std::vector<std::uint8_t>(values.size()),
                   {},
                   (rows + block.rows - 1) / block.rows,
                   (columns + block.columns - 1) / block.columns};
  matrix.scales.reserve(static_cast<std::size_t>(matrix.scale_rows * matrix.scale_columns));
  for (std::int64_t top = 0; top < rows; top += block.rows) {
    for (std::int64_t left = 0; left < columns; left += block.columns) {
      const auto for_each = [&](const auto& visit) {
        for (std::int64_t r = top; r < std::min(rows, top + block.rows); ++r) {
          for (std::int64_t c = left; c < std::min(columns, left + block.columns); ++c) {
            visit(static_cast<std::size_t>(r * columns + c));
          }
        }
      };
      float largest = 1e-6f;
      for_each([&](std::size_t i) { largest = std::max(largest, std::abs(values[i])); });
      const float scale = largest / 448;  // the largest value of E4M3
      matrix.scales.push_back(scale);
      for_each([&](std::size_t i) {
        matrix.codes[i] = nearest_e4m3(values[i] / scale);
        values[i] = codec::float_from_e4m3(matrix.codes[i]) * scale;
      });
    }
  }
  return matrix;
}

void write(const std::filesystem::path& path, const std::vector<Tensor>& tensors) {
  std::vector<formats::TensorSpec> specs;
  specs.reserve(tensors.size());
  for (const Tensor& tensor : tensors) specs.push_back(tensor.spec);
  formats::SafetensorsWriter writer(path, specs);
  for (const Tensor& tensor : tensors) writer.write(tensor.bytes);
  writer.finish();
}

// Splits the tensors of the model at `plain` into those of the two models.
void encode_all(const std::filesystem::path& plain, formats::Fp8Block block,
                const std::function<bool(const std::string&)>& choose, std::vector<Tensor>& as_fp8,
                std::vector<Tensor>& as_floats) {
  const auto file = formats::SafetensorsFile::open(plain / "model.safetensors");
  for (const formats::TensorView& view : file.tensors()) {
    if (view.shape.size() != 2 || !choose(view.name)) {
      as_floats.push_back({{view.name, view.type, view.shape}, {view.bytes.begin(), view.bytes.end()}});
      as_fp8.push_back(as_floats.back());
      continue;
    }
    if (view.type != TensorType::kF32) throw std::runtime_error(view.name + " is not F32");
    std::vector<float> values(view.bytes.size() / sizeof(float));
    std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
    const Fp8Matrix matrix = encode(values, view.shape[0], view.shape[1], block);
    as_floats.push_back(tensor_of(view.name, TensorType::kF32, view.shape, values));
    as_fp8.push_back(tensor_of(view.name, TensorType::kF8E4M3, view.shape, matrix.codes));
    as_fp8.push_back(tensor_of(view.name + "_scale_inv", TensorType::kF32, {matrix.scale_rows, matrix.scale_columns},
                               matrix.scales));
  }
}

}  // namespace

bool is_usually_fp8(const std::string& tensor) {
  return tensor.starts_with("model.layers.") && !tensor.ends_with("mlp.gate.weight");
}

void write_fp8_pair(const std::filesystem::path& fp8, const std::filesystem::path& plain, const TinySpec& spec,
                    formats::Fp8Block block, const std::function<bool(const std::string&)>& choose) {
  write_tiny_checkpoint(plain, spec, TinyForm::kDequantizedF32);
  std::filesystem::copy(plain, fp8);
  std::vector<Tensor> as_fp8, as_floats;
  encode_all(plain, block, choose, as_fp8, as_floats);
  std::filesystem::remove(plain / "model.safetensors");  // mapped until now; not to be written into
  write(plain / "model.safetensors", as_floats);
  write(fp8 / "model.safetensors", as_fp8);

  nlohmann::json config = nlohmann::json::parse(std::ifstream(fp8 / "config.json"));
  config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {block.rows, block.columns}}};
  std::ofstream(fp8 / "config.json") << config.dump(1) << '\n';
}

}  // namespace fairway::test
