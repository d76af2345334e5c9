// Runs, references and comparisons of one set of matrices.
#include "kernels/trellis_linear/cuda/linear_check.cuh"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "backend/cuda/check.cuh"
#include "codec/trellis.h"
#include "kernels/common/cuda/case_size.h"
#include "kernels/trellis_band/cuda/host_matrix.cuh"
#include "kernels/verify/compare.h"

namespace fairway::kernels::cuda::check {
namespace {

constexpr verify::Bound kBound{.row_relative = 0.003};
constexpr int kRowPad = 8;  // elements after each row of x
constexpr int kZeroRow = 1;

// One matrix, its bias, what its product is added to, and the memory of y.
struct Target {
  LinearMatrix shape;
  HostMatrix matrix;
  std::vector<float> bias, old;  // old: [rows][out_exact]
  LinearOutput output;
};

class Matrices {
 public:
  Matrices(const LinearShape& shape, int max_rows) : shape_(shape), max_rows_(max_rows), random_(shape.seed) {
    if (shape.norm) {
      make_norm();
    } else {
      make_rows();
    }
    call_.in = shape.in;
    call_.count = static_cast<int>(shape.matrices.size());
    call_.all_mul1 = true;
    for (const LinearMatrix& m : shape.matrices) add_target(m);
    workspace_bytes_ = linear_workspace_bytes(max_rows, shape.in, call_.count);
    workspace_ = device_.allocate(workspace_bytes_);
  }

  std::vector<Target>& targets() { return targets_; }
  const LinearCall& call() const { return call_; }

  LinearCall poisoned(int rows, int poison) {
    LinearCall call = call_;
    call.rows = rows;
    backend::check_cuda(cudaMemset(workspace_, poison, workspace_bytes_), "poison");
    if (call.norm.sum != nullptr) {
      backend::check_cuda(cudaMemset(call.norm.sum, poison, norm_sum_.size() * sizeof(float)), "poison");
    }
    for (std::size_t i = 0; i < targets_.size(); ++i) {
      const Target& t = targets_[i];
      std::vector<float> y(y_floats(t), std::bit_cast<float>(0x01010101u * static_cast<std::uint32_t>(poison)));
      for (int r = 0; t.shape.add && r < rows; ++r) {
        std::copy_n(t.old.begin() + r * t.shape.out_exact, t.shape.out_exact, y.begin() + r * t.output.ldy);
      }
      backend::check_cuda(cudaMemcpy(t.output.y, y.data(), y.size() * sizeof(float), cudaMemcpyHostToDevice), "y");
    }
    return call;
  }

  // y of one matrix, [rows][out_exact]; what lies beyond must be poison.
  std::vector<float> fetch(const Target& t, int rows, int poison) const {
    std::vector<float> all(y_floats(t)), y;
    backend::check_cuda(cudaMemcpy(all.data(), t.output.y, all.size() * sizeof(float), cudaMemcpyDeviceToHost), "y");
    const std::uint32_t untouched = 0x01010101u * static_cast<std::uint32_t>(poison);
    int touched = 0;
    for (int r = 0; r < max_rows_; ++r) {
      for (int n = 0; n < t.output.ldy; ++n) {
        const float v = all[static_cast<std::size_t>(r * t.output.ldy + n)];
        if (r < rows && n < t.shape.out_exact) {
          y.push_back(v);
        } else {
          touched += std::bit_cast<std::uint32_t>(v) != untouched;
        }
      }
    }
    EXPECT_EQ(touched, 0) << "floats beyond y";
    return y;
  }

  // The sums that the norm stored; no row beyond them, and no pad, is touched.
  void check_sum(int rows, int poison, const std::string& what) const {
    if (call_.norm.sum == nullptr) return;
    std::vector<float> expected(norm_sum_.size(), std::bit_cast<float>(0x01010101u * static_cast<unsigned>(poison)));
    for (int r = 0; r < rows; ++r) {
      const auto first = r * call_.norm.ldsum;
      std::copy_n(norm_sum_.begin() + first, call_.norm.n, expected.begin() + first);
    }
    std::vector<float> sum(norm_sum_.size());
    backend::check_cuda(cudaMemcpy(sum.data(), call_.norm.sum, sum.size() * sizeof(float), cudaMemcpyDeviceToHost),
                        "sum");
    int wrong = 0;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      wrong += std::bit_cast<std::uint32_t>(sum[i]) != std::bit_cast<std::uint32_t>(expected[i]);
    }
    EXPECT_EQ(wrong, 0) << what << ": sums";
  }

  void run(LinearPath path, int rows, int poison) { trellis_linear(poisoned(rows, poison), path, workspace_, nullptr); }

  // Row r of y in double precision.
  const std::vector<double>& reference(std::size_t target, int r) {
    std::vector<double>& y = references_[{target, r}];
    if (!y.empty()) return y;
    const Target& t = targets_[target];
    y = t.matrix.apply(x_[r]);
    y.resize(t.shape.out_exact);
    for (int n = 0; n < t.shape.out_exact; ++n) {
      if (t.shape.bias) y[n] += t.bias[n];
      if (t.shape.add) y[n] += t.old[static_cast<std::size_t>(r * t.shape.out_exact + n)];
    }
    return y;
  }

 private:
  std::size_t y_floats(const Target& t) const { return static_cast<std::size_t>(max_rows_ * t.output.ldy); }

  void make_rows() {
    std::vector<float> x;
    const int ldx = shape_.in + kRowPad;
    for (int r = 0; r < max_rows_; ++r) {
      for (int k = 0; k < ldx; ++k) {
        const bool used = k < shape_.in_exact && (r != kZeroRow || max_rows_ == 1);
        x.push_back(k >= shape_.in ? 1e4f : used ? rounded_to_half(random_.normal()) : 0.0f);
      }
    }
    for (int r = 0; r < max_rows_; ++r) x_.emplace_back(x.begin() + r * ldx, x.begin() + r * ldx + shape_.in);
    call_.x = device_.upload(to_halves(x));
    call_.ldx = ldx;
  }

  // The norm by its definition, but for the sum, which is fp32.
  void make_norm() {
    LinearNorm& norm = call_.norm;
    norm.n = shape_.in_exact;
    norm.eps = 1e-6f;
    norm.ldx = norm.n + 4;
    norm.ldadd = norm.n + kRowPad;
    norm.ldsum = norm.n + 3 * 4;
    std::vector<float> weight, x, add;
    for (int k = 0; k < norm.n; ++k) weight.push_back(random_.normal());
    norm_sum_.resize(static_cast<std::size_t>(max_rows_ * norm.ldsum));
    for (int r = 0; r < max_rows_; ++r) {
      const bool zero = r == kZeroRow && max_rows_ > 1;
      const float size = zero ? 0.0f : std::pow(10.0f, random_.uniform(-3, 3));
      for (int k = 0; k < norm.ldx; ++k) x.push_back(k < norm.n ? size * random_.normal() : 1e4f);
      for (int k = 0; k < norm.ldadd; ++k) add.push_back(k < norm.n ? size * random_.normal() : 1e4f);
      std::vector<double>& row = x_.emplace_back(static_cast<std::size_t>(shape_.in));
      double squares = 0;
      for (int k = 0; k < norm.n; ++k) {
        float sum = x[static_cast<std::size_t>(r * norm.ldx + k)];
        if (shape_.norm_adds) sum += add[static_cast<std::size_t>(r * norm.ldadd + k)];
        norm_sum_[static_cast<std::size_t>(r * norm.ldsum + k)] = sum;
        row[static_cast<std::size_t>(k)] = static_cast<double>(sum) * weight[static_cast<std::size_t>(k)];
        squares += static_cast<double>(sum) * sum;
      }
      for (double& v : row) v /= std::sqrt(squares / norm.n + norm.eps);
    }
    norm.x = device_.upload(x);
    norm.weight = device_.upload(weight);
    if (!shape_.norm_adds) return;
    norm.add = device_.upload(add);
    norm.sum = static_cast<float*>(device_.allocate(norm_sum_.size() * sizeof(float)));
  }

  void add_target(const LinearMatrix& m) {
    Target t{};
    t.shape = m;
    const auto known = scales_.find(m.suh);
    t.matrix = random_matrix(random_, shape_.in, m.out, m.bits, m.codebook,
                             known == scales_.end() ? nullptr : &known->second.first);
    if (known == scales_.end()) scales_[m.suh] = {t.matrix.suh, device_.upload(to_halves(t.matrix.suh))};
    for (int n = 0; n < m.out_exact; ++n) t.bias.push_back(random_.normal());
    for (int i = 0; i < max_rows_ * m.out_exact; ++i) t.old.push_back(random_.normal());
    const int pad = static_cast<int>(targets_.size());  // rows of y at every alignment
    t.output = {device_.matrix(t.matrix, scales_[m.suh].second),
                m.out,
                m.out_exact,
                m.bias ? device_.upload(t.bias) : nullptr,
                nullptr,
                m.out_exact + pad,
                m.add};
    t.output.y = static_cast<float*>(device_.allocate(sizeof(float) * y_floats(t)));
    call_.all_mul1 &= t.matrix.codebook == static_cast<int>(codec::Codebook::kMul1);
    call_.max_bits = std::max(call_.max_bits, t.matrix.bits);
    call_.outputs[targets_.size()] = t.output;
    targets_.push_back(t);
  }

  LinearShape shape_;
  int max_rows_;
  Random random_;
  DeviceData device_;
  std::vector<std::vector<double>> x_;  // what the matrices multiply
  std::vector<float> norm_sum_;         // [rows, ldsum]
  std::vector<Target> targets_;
  std::map<int, std::pair<std::vector<float>, const __half*>> scales_;
  std::map<std::pair<std::size_t, int>, std::vector<double>> references_;
  LinearCall call_{};
  void* workspace_ = nullptr;
  std::size_t workspace_bytes_ = 0;
};

// Worst error of a row.
double check_case(Matrices& matrices, const std::string& name, LinearPath path, int rows) {
  std::vector<std::vector<std::vector<float>>> runs;
  for (const int poison : poisons()) {
    matrices.run(path, rows, poison);
    std::vector<std::vector<float>>& y = runs.emplace_back();
    for (const Target& t : matrices.targets()) y.push_back(matrices.fetch(t, rows, poison));
    matrices.check_sum(rows, poison, fmt::format("{}, {}, {} rows", name, linear_path_name(path), rows));
  }
  double worst = 0;
  for (std::size_t m = 0; m < matrices.targets().size(); ++m) {
    std::vector<float> reference;
    for (int r = 0; r < rows; ++r) {
      for (const double v : matrices.reference(m, r)) reference.push_back(static_cast<float>(v));
    }
    const int columns = matrices.targets()[m].shape.out_exact;
    const std::string what = fmt::format("{}, {}, {} rows, matrix {}", name, linear_path_name(path), rows, m);
    EXPECT_EQ(verify::compare(reference, runs.front()[m], columns, kBound), "") << what;
    EXPECT_EQ(verify::compare_exact(runs.front()[m], runs.back()[m]), "") << what << ": two runs";
    worst = std::max(worst, verify::worst_row_error(reference, runs.front()[m], columns));
  }
  return worst;
}

}  // namespace

void check_linear(const LinearShape& shape, const std::vector<int>& row_counts, const std::vector<LinearPath>& paths) {
  Matrices matrices(shape, *std::max_element(row_counts.begin(), row_counts.end()));
  std::string line = fmt::format("{:<28}", shape.name);
  for (const LinearPath path : paths) {
    LinearCall call = matrices.call();
    call.rows = 1;
    if (!linear_path_legal(call, path)) continue;
    double worst = 0;
    for (const int rows : row_counts) {
      call.rows = rows;
      if (!linear_path_legal(call, path)) continue;
      if (shape.norm && !linear_takes_norm(call, path)) continue;
      worst = std::max(worst, check_case(matrices, shape.name, path, rows));
    }
    line += fmt::format("  {} {:.1e}", linear_path_name(path), worst);
  }
  fmt::print("{}\n", line);
}

}  // namespace fairway::kernels::cuda::check
