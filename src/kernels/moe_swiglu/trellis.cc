// The trellis rows of moe_swiglu: the driver over the band kernels of each instruction set.
#include <cstring>

#include "kernels/moe_swiglu/generic.h"
#include "kernels/moe_swiglu/rows.h"

namespace fairway::kernels {
namespace {

// Gate and up have the same input sizes; if their input scales agree too, one prepared copy of x serves both.
bool same_input(const TrellisMatrix& a, const TrellisMatrix& b) {
  return a.in == b.in &&
         (a.suh == b.suh || std::memcmp(a.suh, b.suh, static_cast<std::size_t>(a.in) * sizeof(float)) == 0);
}

struct TrellisPolicy {
  const BandKernel& kernel;
  int workers;  // who take the bands in turn

  std::size_t scratch_bytes() const { return kernel.scratch_bytes; }
  std::size_t gate_row_bytes(const ExpertWeights& e) const { return kernel.row_bytes(e.gate.trellis().in); }
  std::size_t up_row_bytes(const ExpertWeights& e) const {
    return same_input(e.gate.trellis(), e.up.trellis()) ? 0 : kernel.row_bytes(e.up.trellis().in);
  }
  std::size_t hidden_row_bytes(const ExpertWeights& e) const { return kernel.row_bytes(e.down.trellis().in); }
  int intermediate_bands(const ExpertWeights& e) const { return band_count(e.down.trellis().in); }

  void prepare(const ExpertWeights& e, const float* x, int hidden, std::uint8_t* gate_row, std::uint8_t* up_row) const {
    prepare_row(kernel, e.gate.trellis(), x, hidden, gate_row);
    if (up_row != nullptr) prepare_row(kernel, e.up.trellis(), x, hidden, up_row);
  }
  // Bands beyond the outputs of gate and up exist only if down is padded further; store_hidden writes zeros there.
  void gate_band(const ExpertWeights& e, int band, const std::uint8_t* rows, std::int64_t stride, int m, float* y,
                 std::uint8_t* scratch) const {
    if (band < band_count(e.gate.out)) {
      compute_band(kernel, {e.gate.trellis(), band, e.up.trellis(), band}, rows, stride, m, y, scratch);
    }
  }
  void up_band(const ExpertWeights& e, int band, const std::uint8_t* rows, std::int64_t stride, int m, float* y,
               std::uint8_t* scratch) const {
    if (band < band_count(e.up.out)) {
      compute_band(kernel, {e.up.trellis(), band, e.gate.trellis(), band + workers}, rows, stride, m, y, scratch);
    }
  }
  void down_band(const ExpertWeights& e, int band, const std::uint8_t* rows, std::int64_t stride, int m, float* y,
                 std::uint8_t* scratch) const {
    compute_band(kernel, {e.down.trellis(), band, e.down.trellis(), band + workers}, rows, stride, m, y, scratch);
  }
  // Columns of the padding may hold noise in the stored matrix: they count as zero.
  void store_hidden(const ExpertWeights& e, int band, const float* gate, const float* up, int m, std::uint8_t* rows,
                    std::int64_t stride) const {
    const TrellisMatrix& down = e.down.trellis();
    const int begin = band * kBandWidth;
    const int count = std::clamp(e.gate.out - begin, 0, kBandWidth);
    alignas(64) float product[kBandWidth];
    alignas(64) float block[kBandWidth];
    for (int r = 0; r < m; ++r) {
      if (count > 0) kernel.ops->swiglu(gate + r * kBandWidth, up + r * kBandWidth, count, product);
      kernel.ops->transform_input(product, count, down.suh + begin, block);
      kernel.store_block(block, rows + r * stride, down.in, band);
    }
  }
};

template <const BandKernel& kKernel>
void run(const MoeSwigluArgs& args, KernelContext& context, const char* id) {
  for (const ExpertGroup& g : args.groups) {
    if (g.m <= 0) continue;
    check_domain(kKernel, g.expert->gate.trellis(), id);
    check_domain(kKernel, g.expert->up.trellis(), id);
    check_domain(kKernel, g.expert->down.trellis(), id);
  }
  const TrellisPolicy policy{kKernel, context.pool.size()};
  MoeDriver<TrellisPolicy>(args, context, policy).run();
}

}  // namespace

#define FAIRWAY_MOE_BODY(name, kernel, id)                       \
  void name(const MoeSwigluArgs& args, KernelContext& context) { \
    run<kernel>(args, context, id);                              \
  }
FAIRWAY_MOE_BODY(moe_decode_int8_avx2, kBandI8SingleAvx2, "cpu_avx2/moe_trellis_swiglu_decode")
FAIRWAY_MOE_BODY(moe_prefill4_int8_avx2, kBandI8QuadAvx2, "cpu_avx2/moe_trellis_swiglu_prefill4")
FAIRWAY_MOE_BODY(moe_panel_int8_avx2, kBandI8PanelAvx2, "cpu_avx2/moe_trellis_swiglu")
FAIRWAY_MOE_BODY(moe_decode_fp32acc_avx2, kBandF32SingleAvx2, "cpu_avx2/moe_trellis_swiglu_decode_fp32acc")
FAIRWAY_MOE_BODY(moe_prefill4_fp32acc_avx2, kBandF32QuadAvx2, "cpu_avx2/moe_trellis_swiglu_prefill4_fp32acc")
FAIRWAY_MOE_BODY(moe_panel_fp32acc_avx2, kBandF32PanelAvx2, "cpu_avx2/moe_trellis_swiglu_fp32acc")
FAIRWAY_MOE_BODY(moe_decode_int8_avx512, kBandI8SingleAvx512, "cpu_avx512/moe_trellis_swiglu_decode")
FAIRWAY_MOE_BODY(moe_prefill4_int8_avx512, kBandI8QuadAvx512, "cpu_avx512/moe_trellis_swiglu_prefill4")
FAIRWAY_MOE_BODY(moe_panel_int8_avx512, kBandI8PanelAvx512, "cpu_avx512/moe_trellis_swiglu")
FAIRWAY_MOE_BODY(moe_decode_fp32acc_avx512, kBandF32SingleAvx512, "cpu_avx512/moe_trellis_swiglu_decode_fp32acc")
FAIRWAY_MOE_BODY(moe_prefill4_fp32acc_avx512, kBandF32QuadAvx512, "cpu_avx512/moe_trellis_swiglu_prefill4_fp32acc")
FAIRWAY_MOE_BODY(moe_panel_fp32acc_avx512, kBandF32PanelAvx512, "cpu_avx512/moe_trellis_swiglu_fp32acc")
#undef FAIRWAY_MOE_BODY

}  // namespace fairway::kernels
