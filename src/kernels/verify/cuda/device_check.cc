// The rounds of problems and the comparison.
#include "kernels/verify/device_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "backend/cuda/device.h"
#include "backend/cuda/device_scope.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/verify/compare.h"
#include "kernels/verify/cuda/device_experts.cuh"
#include "kernels/verify/cuda/device_linears.cuh"

namespace fairway::verify {
namespace {

using codec::Codebook;
using kernels::codebook_bit;
using kernels::CudaRow;

constexpr Codebook kCodebooks[] = {Codebook::k3inst, Codebook::kMcg, Codebook::kMul1};
constexpr int kWidths = 8;
constexpr int kFewTokens[] = {1, 2, 3, 4}, kManyTokens[] = {9, 17, 40, 70};  // in turn
constexpr int kLinearRows[] = {1, 2, 3, 5, 9, 17, 40, 130};                  // one for each width
constexpr int kPoisons[] = {0xFF, 0x7F};

int path_of(const CudaRow& row) {
  return static_cast<int>(&row - kernels::cuda_rows_of(row.op).data());
}

class DeviceCheck {
 public:
  DeviceCheck(std::span<const CudaRow* const> rows, int device, const CheckOptions& options,
              const DeviceCheckSizes& sizes)
      : options_(options), sizes_(sizes), stream_(device) {
    for (const CudaRow* row : rows) {
      reports_.emplace_back();
      reports_.back().row = row;
    }
  }

  std::vector<DeviceRowReport> run() {
    for_each_round(options_, [&](std::mt19937& random, int round, const std::string& where) {
      where_ = where;
      run_experts(random, round);
      run_linears(random, round);
    });
    return std::move(reports_);
  }

 private:
  static constexpr int kCases = 4 + 3 * kWidths;  // of a round

  void advance() {
    ++done_;
    if (options_.progress) {
      options_.progress(static_cast<double>(done_) / (static_cast<double>(options_.rounds) * kCases));
    }
  }
  bool wants(const char* op) const {
    return std::any_of(reports_.begin(), reports_.end(),
                       [&](const DeviceRowReport& r) { return std::string_view(r.row->op) == op; });
  }

  void run_experts(std::mt19937& random, int round) {
    int turn = round;
    for (const auto& books : {std::vector{Codebook::k3inst}, std::vector{Codebook::kMcg}, std::vector{Codebook::kMul1},
                              std::vector{Codebook::k3inst, Codebook::kMul1, Codebook::kMcg}}) {
      advance();
      if (options_.cancelled() || !wants("moe_swiglu")) continue;
      DeviceExperts experts(random, stream_, sizes_.most_size, books, round, turn % 2 == 0);
      std::uint8_t codebooks = 0;
      for (const Codebook b : books) codebooks |= codebook_bit(b);
      for (const int tokens : {kFewTokens[turn % 4], std::min(kManyTokens[turn % 4], sizes_.most_tokens)}) {
        const std::vector<float> expected = experts.start_call(random, tokens);
        for (DeviceRowReport& report : reports_) {
          if (report.row->op != std::string_view("moe_swiglu")) continue;
          if (!report.mismatch.empty() || (codebooks & ~report.row->codebooks) != 0 || options_.cancelled()) continue;
          const auto path = static_cast<kernels::cuda::MoePath>(path_of(*report.row));
          const std::string what =
              fmt::format("{}, experts of hidden size {}, {} tokens", where_, experts.hidden(), tokens);
          const std::vector<float> y = experts.run(path, kPoisons[0]);
          compare_call(report, expected, y, experts.run(path, kPoisons[1]), experts.hidden(), what);
          ++report.calls;
          report.codebooks |= codebooks;
          report.most_tokens = std::max(report.most_tokens, tokens);
          for (int w = 1; w <= kWidths; ++w) report.widths.insert(w);  // the layer has all of them
        }
      }
      ++turn;
    }
  }

  void run_linears(std::mt19937& random, int round) {
    int turn = round;
    for (const Codebook book : kCodebooks) {
      for (int bits = 1; bits <= kWidths; ++bits) {
        advance();
        if (options_.cancelled() || !wants("trellis_linear")) continue;
        const int together = kernels::cuda::kMaxLinearOutputs;
        if (sizes_.widths_together && bits % together != 0) continue;
        const int in = random_size(random, sizes_.most_size);
        const int rows = std::min(kLinearRows[turn % kWidths], sizes_.most_linear_rows);
        std::vector<DeviceLinears::Matrix> matrices{{random_size(random, sizes_.most_size), bits}};
        if (sizes_.widths_together) {
          for (int i = 1; i < together; ++i) matrices.push_back({random_size(random, sizes_.most_size), bits - i});
        } else {
          matrices.push_back({random_size(random, sizes_.most_size), 1 + static_cast<int>(random() % kWidths)});
        }
        run_linear_call(random, in, matrices, book, rows);
        const int few = kFewTokens[turn++ % 4];  // some paths take no more
        if (rows > kFewTokens[3]) run_linear_call(random, in, matrices, book, few);
      }
      ++turn;  // another number of rows for the same width of the next codebook
    }
  }

  void run_linear_call(std::mt19937& random, int in, const std::vector<DeviceLinears::Matrix>& matrices, Codebook book,
                       int rows) {
    DeviceLinears linears(random, stream_, in, matrices, book, rows);
    for (DeviceRowReport& report : reports_) {
      if (report.row->op == std::string_view("trellis_linear")) run_linear_row(linears, report, book, in);
    }
  }

  void run_linear_row(DeviceLinears& linears, DeviceRowReport& report, Codebook book, int in) {
    const auto path = static_cast<kernels::cuda::LinearPath>(path_of(*report.row));
    if (!report.mismatch.empty() || (codebook_bit(book) & ~report.row->codebooks) != 0 || options_.cancelled()) return;
    if (!kernels::cuda::linear_path_legal(linears.call(), path)) return;
    bool gap_intact = true;
    const auto y = linears.run(path, kPoisons[0], &gap_intact);
    const auto again = linears.run(path, kPoisons[1], &gap_intact);
    ++report.calls;
    report.codebooks |= codebook_bit(book);
    report.most_tokens = std::max(report.most_tokens, linears.call().rows);
    for (std::size_t i = 0; i < linears.count() && report.mismatch.empty(); ++i) {
      report.widths.insert(linears.bits(i));
      const std::string what =
          fmt::format("{}, {} -> {}, {} bits, codebook {}, {} rows of x", where_, in, linears.columns(i),
                      linears.bits(i), codec::codebook_name(book), linears.call().rows);
      compare_call(report, linears.expected(i), y[i], again[i], linears.columns(i), what);
    }
    if (!gap_intact && report.mismatch.empty()) {
      report.mismatch = where_ + ": columns beyond the outputs were written";
    }
  }

  static void compare_call(DeviceRowReport& report, const std::vector<float>& expected, const std::vector<float>& y,
                           const std::vector<float>& again, std::int64_t columns, const std::string& what) {
    // A result that is small by chance has no smaller error.
    Bound bound{.row_relative = report.bound, .row_floor = typical_row_norm(expected, columns)};
    std::string problem = compare(expected, y, columns, bound);
    report.worst_error = std::max(report.worst_error, worst_row_error(expected, y, columns, bound.row_floor));
    if (problem.empty()) {
      problem = compare_exact(y, again);
      if (!problem.empty()) problem = "two calls differ: " + problem;
    }
    if (!problem.empty()) report.mismatch = fmt::format("{}: {}", what, problem);
  }

  const CheckOptions& options_;
  const DeviceCheckSizes& sizes_;
  backend::CudaStream stream_;
  std::vector<DeviceRowReport> reports_;
  std::string where_;
  int done_ = 0;
};

}  // namespace

std::vector<DeviceRowReport> check_cuda_rows(std::span<const CudaRow* const> rows, int device,
                                             const CheckOptions& options, const DeviceCheckSizes& sizes) {
  backend::require_cuda_device(device);
  kernels::cuda::require_gpu(device);
  const backend::DeviceScope scope(device);
  return DeviceCheck(rows, device, options, sizes).run();
}

}  // namespace fairway::verify
