// Making the matrices, their reference, and the call.
#include "kernels/verify/cuda/device_linears.cuh"

#include <bit>
#include <cstring>
#include <stdexcept>

#include "backend/cuda/native.cuh"
#include "kernels/verify/linear_problem.h"

namespace fairway::verify {
namespace {

constexpr int kDeviceInputGap = 8;

const kernels::TrellisLinearRow& reference_row() {
  for (const kernels::TrellisLinearRow& row : kernels::trellis_linear_rows()) {
    if (row.info.backend == kernels::Backend::kCpuRef) return row;
  }
  throw std::logic_error("no reference row");
}

}  // namespace

DeviceLinears::DeviceLinears(std::mt19937& random, backend::CudaStream& stream, int in,
                             const std::vector<Matrix>& matrices, codec::Codebook codebook, int rows)
    : stream_(stream), copies_(stream) {
  const std::vector<float> values =
      random_halves(random, static_cast<std::size_t>(rows) * static_cast<std::size_t>(in));
  const int ldx = padded(in) + kDeviceInputGap;
  std::vector<float> host_x, device_x;
  for (int r = 0; r < rows; ++r) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(r) * in;
    host_x.insert(host_x.end(), begin, begin + in);
    device_x.insert(device_x.end(), begin, begin + in);
    host_x.resize(static_cast<std::size_t>(r + 1) * static_cast<std::size_t>(in + kInputGap), poison(1)[0]);
    device_x.resize(device_x.size() + static_cast<std::size_t>(padded(in) - in), 0.0f);
    device_x.resize(static_cast<std::size_t>(r + 1) * static_cast<std::size_t>(ldx), poison(1)[0]);
  }
  call_.x = copies_.halves(device_x);
  call_.ldx = ldx;
  call_.in = padded(in);
  call_.rows = rows;
  call_.all_mul1 = codebook == codec::Codebook::kMul1;
  for (const auto& [out, width] : matrices) {
    const bool bias = random() % 2 == 0, add = random() % 2 == 0;
    outputs_.push_back({RandomTrellis(random, in, out, width, codebook, bias), {}, {}});
    Output& o = outputs_.back();
    o.weights.round_scales();
    const std::size_t elements = static_cast<std::size_t>(rows) * static_cast<std::size_t>(out);
    if (add) o.old = random_normal(random, elements);
    o.expected = run_linear(reference_row(), o.weights, host_x, rows, 2, reference_row().info.tile).y;
    const float* host_bias = o.weights.matrix().bias;
    kernels::cuda::LinearOutput& d = call_.outputs[call_.count++];
    d.matrix = copies_.matrix(o.weights);
    d.out = o.weights.matrix().out;
    d.out_exact = out;
    d.bias = bias ? copies_.copy<float>({host_bias, static_cast<std::size_t>(out)}) : nullptr;
    d.ldy = out + kGap;
    d.y = copies_.allocate<float>(static_cast<std::size_t>(rows) * static_cast<std::size_t>(d.ldy));
    d.add = add;
    call_.max_bits = std::max(call_.max_bits, width);
  }
  workspace_bytes_ = kernels::cuda::linear_workspace_bytes(rows, call_.in, call_.count);
  workspace_ = copies_.allocate<unsigned char>(workspace_bytes_);
}

std::vector<std::vector<float>> DeviceLinears::run(kernels::cuda::LinearPath path, int poison, bool* gap_intact) {
  const std::size_t rows = static_cast<std::size_t>(call_.rows);
  float untouched;
  std::memset(&untouched, poison, sizeof(untouched));
  stream_.fill(workspace_, static_cast<unsigned char>(poison), workspace_bytes_);
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const std::size_t ld = static_cast<std::size_t>(call_.outputs[i].ldy), n = ld - kGap;
    std::vector<float> y(rows * ld, untouched);
    for (std::size_t r = 0; !outputs_[i].old.empty() && r < rows; ++r) {
      std::copy_n(&outputs_[i].old[r * n], n, &y[r * ld]);
    }
    stream_.copy_to_device(call_.outputs[i].y, y.data(), y.size() * sizeof(float));
  }
  kernels::cuda::trellis_linear(call_, path, workspace_, backend::native(stream_));
  std::vector<std::vector<float>> results;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const std::size_t ld = static_cast<std::size_t>(call_.outputs[i].ldy), n = ld - kGap;
    std::vector<float> all(rows * ld), y;
    stream_.copy_to_host(all.data(), call_.outputs[i].y, all.size() * sizeof(float));
    stream_.wait();
    for (std::size_t e = 0; e < all.size(); ++e) {
      const std::size_t r = e / ld, c = e % ld;
      if (c >= n) {
        *gap_intact &= std::bit_cast<std::uint32_t>(all[e]) == std::bit_cast<std::uint32_t>(untouched);
      } else {
        y.push_back(outputs_[i].old.empty() ? all[e] : all[e] - outputs_[i].old[r * n + c]);
      }
    }
    results.push_back(std::move(y));
  }
  return results;
}

}  // namespace fairway::verify
