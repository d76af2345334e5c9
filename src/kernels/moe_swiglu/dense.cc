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

  struct Decode {};
  Decode decode(const ExpertGroup&) const { return {}; }

  static std::size_t float_bytes(int count) { return static_cast<std::size_t>(count) * sizeof(float); }
  std::size_t scratch_bytes() const { return 0; }
  std::size_t gate_row_bytes(const Decode&, const ExpertWeights& e) const { return float_bytes(e.gate.in); }
  std::size_t up_row_bytes(const Decode&, const ExpertWeights&) const { return 0; }
  std::size_t hidden_row_bytes(const Decode&, const ExpertWeights& e) const { return float_bytes(e.down.in); }
  int intermediate_bands(const ExpertWeights& e) const { return band_count(e.down.in); }

  static InputForm input_form(const Decode&, const ExpertWeights&) { return {}; }  // a copy is as much work
  void prepare(const Decode&, const ExpertWeights& e, const float* x, int, std::uint8_t* gate_row,
               std::uint8_t*) const {
    std::copy_n(x, e.gate.in, reinterpret_cast<float*>(gate_row));
  }

  // The outputs of one part of a band in y[m][128].
  void matrix_part(const LinearWeights& weights, const BandPart& part, const PreparedRows& rows, float* y) const {
    DenseMatrix matrix = weights.dense();
    const int column = part.first_tile * codec::kTileDim;
    const std::int64_t begin = std::int64_t{part.band} * kBandWidth + column;
    if (begin >= matrix.out) return;
    matrix.data += begin * matrix.in * dense_type_bytes(matrix.type);
    if (matrix.bias != nullptr) matrix.bias += begin;
    matrix.out = static_cast<int>(std::min<std::int64_t>(part.tiles * codec::kTileDim, matrix.out - begin));
    const std::int64_t ldx = rows.stride / static_cast<std::int64_t>(sizeof(float));
    dot(matrix, 0, matrix.out, reinterpret_cast<const float*>(rows.data), ldx, rows.count, y + column, kBandWidth);
  }
  void gate_part(const Decode&, const ExpertPart& at, const PreparedRows& rows, float* y, std::uint8_t*) const {
    matrix_part(at.expert->gate, at.part, rows, y);
  }
  void up_part(const Decode&, const ExpertPart& at, const ExpertPart&, const PreparedRows& rows, float* y,
               std::uint8_t*) const {
    matrix_part(at.expert->up, at.part, rows, y);
  }
  void down_part(const Decode&, const ExpertPart& at, const ExpertPart&, const PreparedRows& rows, float* y,
                 std::uint8_t*) const {
    matrix_part(at.expert->down, at.part, rows, y);
  }

  void finish_hidden(const Decode&, const ExpertWeights& e, int band, const float* gate, const float* up, int m,
                     std::uint8_t* rows, std::int64_t stride) const {
    const int begin = band * kBandWidth;
    const int count = std::min(kBandWidth, e.down.in - begin);
    alignas(64) float product[kBandWidth];
    for (int r = 0; r < m; ++r) {
      ops.swiglu(gate + r * kBandWidth, up + r * kBandWidth, count, product);
      std::copy_n(product, count, reinterpret_cast<float*>(rows + r * stride) + begin);
    }
  }
  void finish_output(const Decode&, const ExpertWeights&, int, int, const float*) const {}
};

void run(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context, const DensePolicy& policy) {
  check_tile(tile, "moe_swiglu, dense experts");
  MoeDriver<DensePolicy>(args, tile, context, policy).run();
}

}  // namespace

void moe_dense_ref(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  run(args, tile, context, {dense_dot_ref, kBlockOpsRef});
}
void moe_dense_avx2(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  run(args, tile, context, {dense_dot_avx2, kBlockOpsAvx2});
}
void moe_dense_avx512(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context) {
  run(args, tile, context, {dense_dot_avx512, kBlockOpsAvx512});
}

}  // namespace fairway::kernels
