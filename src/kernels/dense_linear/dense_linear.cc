// dense_linear: slabs of outputs over the thread pool, and the registry rows.
#include "kernels/dense_linear/dense_linear.h"

#include <algorithm>
#include <climits>
#include <cstring>

#include "codec/half.h"
#include "kernels/dense_linear/dense_dot.h"

namespace fairway::kernels {
namespace {

// Outputs per task, multiples of every register tile's width (3, 4, 8). Small: 48 rows of 2048 bf16 are 192 KiB, some
// ten microseconds of memory traffic. Large: with many rows of x, one pass over x serves more outputs, and the K block
// of the slab (144 x 1024 weights) still fits a second-level cache.
constexpr int kSlab = 48;
constexpr int kLargeSlab = 144;
constexpr int kLargeSlabRows = 64;

template <DenseDotFn kDot>
void run(const DenseLinearArgs& args, KernelContext& context) {
  const DenseMatrix& w = *args.matrix;
  if (args.m == 0) return;
  const bool large = args.m >= kLargeSlabRows && w.out >= 4 * kLargeSlab * context.pool.size();
  const int slab = large ? kLargeSlab : kSlab;
  context.pool.parallel_for((w.out + slab - 1) / slab, [&](std::int64_t task, int) {
    const int begin = static_cast<int>(task) * slab;
    kDot(w, begin, std::min(begin + slab, w.out), args.x, args.ldx, args.m, args.y, args.ldy);
  });
}

constexpr KernelRow describe(const char* id, const char* family, const char* source, Backend backend,
                             std::uint32_t features) {
  return {.id = id,
          .op = "dense_linear",
          .family = family,
          .source = source,
          .backend = backend,
          .requires_features = features,
          .weights = WeightKind::kDense,
          .activations = Activations::kFp32,
          .numerics = Numerics::kBounded,
          .codes = WeightCodes::kExact,
          .codebooks = 0,
          .bits = {},
          .use = RowUse::kByRows,
          .m_min = 1,
          .m_max = INT_MAX};
}

constexpr DenseLinearRow kRows[] = {
#define FAIRWAY_ROW(name, backend_value, family, features, dot)                                                    \
  {describe(#name "/" #family, #family, "src/kernels/dense_linear/" #dot ".cc", Backend::backend_value, features), \
   run<dot>},
#include "kernels/dense_linear/kernels.inc"
#undef FAIRWAY_ROW
};

}  // namespace

std::span<const DenseLinearRow> dense_linear_rows() {
  return kRows;
}

void read_dense_row(const DenseMatrix& matrix, std::int64_t row, float* out) {
  const std::int64_t row_bytes = matrix.in * dense_type_bytes(matrix.type);
  const std::uint8_t* from = matrix.data + row * row_bytes;
  if (matrix.type == DenseType::kF32) {
    std::memcpy(out, from, static_cast<std::size_t>(row_bytes));
    return;
  }
  for (int i = 0; i < matrix.in; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, from + 2 * static_cast<std::int64_t>(i), sizeof bits);
    out[i] = matrix.type == DenseType::kF16 ? codec::float_from_half(bits) : codec::float_from_bfloat(bits);
  }
}

}  // namespace fairway::kernels
