// The dense rows of moe_swiglu: the driver over the dense dot products of each instruction set.
#include <algorithm>

#include "kernels/dense_linear/dense_dot.h"
#include "kernels/moe_swiglu/generic.h"
#include "kernels/moe_swiglu/rows.h"

namespace fairway::kernels {
namespace {

// Prepared rows are plain fp32 rows.
struct DensePolicy {
  DenseDotFn dot;
  const BlockOps& ops;

  static std::size_t float_bytes(int count) { return static_cast<std::size_t>(count) * sizeof(float); }
  std::size_t scratch_bytes() const { return 0; }
  std::size_t gate_row_bytes(const ExpertWeights& e) const { return float_bytes(e.gate.in); }
  std::size_t up_row_bytes(const ExpertWeights&) const { return 0; }
  std::size_t hidden_row_bytes(const ExpertWeights& e) const { return float_bytes(e.down.in); }
  int intermediate_bands(const ExpertWeights& e) const { return band_count(e.down.in); }

  void prepare(const ExpertWeights& e, const float* x, int, std::uint8_t* gate_row, std::uint8_t*) const {
    std::copy_n(x, e.gate.in, reinterpret_cast<float*>(gate_row));
  }

  // Outputs 128 * band .. of one matrix as y[m][128].
  void matrix_band(const LinearWeights& weights, int band, const std::uint8_t* rows, std::int64_t stride, int m,
                   float* y) const {
    DenseMatrix part = weights.dense();
    const std::int64_t begin = std::int64_t{band} * kBandWidth;
    part.data += begin * part.in * dense_type_bytes(part.type);
    if (part.bias != nullptr) part.bias += begin;
    part.out = static_cast<int>(std::min<std::int64_t>(kBandWidth, part.out - begin));
    const std::int64_t ldx = stride / static_cast<std::int64_t>(sizeof(float));
    dot(part, 0, part.out, reinterpret_cast<const float*>(rows), ldx, m, y, kBandWidth);
  }
  void gate_band(const ExpertWeights& e, int band, const std::uint8_t* rows, std::int64_t stride, int m, float* y,
                 std::uint8_t*) const {
    matrix_band(e.gate, band, rows, stride, m, y);
  }
  void up_band(const ExpertWeights& e, int band, const std::uint8_t* rows, std::int64_t stride, int m, float* y,
               std::uint8_t*) const {
    matrix_band(e.up, band, rows, stride, m, y);
  }
  void down_band(const ExpertWeights& e, int band, const std::uint8_t* rows, std::int64_t stride, int m, float* y,
                 std::uint8_t*) const {
    matrix_band(e.down, band, rows, stride, m, y);
  }

  void store_hidden(const ExpertWeights& e, int band, const float* gate, const float* up, int m, std::uint8_t* rows,
                    std::int64_t stride) const {
    const int begin = band * kBandWidth;
    const int count = std::min(kBandWidth, e.down.in - begin);
    alignas(64) float product[kBandWidth];
    for (int r = 0; r < m; ++r) {
      ops.swiglu(gate + r * kBandWidth, up + r * kBandWidth, count, product);
      std::copy_n(product, count, reinterpret_cast<float*>(rows + r * stride) + begin);
    }
  }
};

void run(const MoeSwigluArgs& args, KernelContext& context, const DensePolicy& policy) {
  MoeDriver<DensePolicy>(args, context, policy).run();
}

}  // namespace

void moe_dense_ref(const MoeSwigluArgs& args, KernelContext& context) {
  run(args, context, {dense_dot_ref, kBlockOpsRef});
}
void moe_dense_avx2(const MoeSwigluArgs& args, KernelContext& context) {
  run(args, context, {dense_dot_avx2, kBlockOpsAvx2});
}
void moe_dense_avx512(const MoeSwigluArgs& args, KernelContext& context) {
  run(args, context, {dense_dot_avx512, kBlockOpsAvx512});
}

}  // namespace fairway::kernels
