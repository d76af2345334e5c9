// Rounding an inner matrix strip by strip, each strip corrected for the errors of the strips before it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "codec/trellis.h"
#include "kernels/common/context.h"
#include "quantize/block_ldl.h"
#include "quantize/tile_coder.h"

namespace fairway::quantize {

// One coder per worker, for the width that was asked for last: coders of all widths would take 33 MiB for each worker,
// and making one takes as long as coding a few tiles.
class TileCoders {
 public:
  TileCoders(codec::Codebook codebook, int workers);
  codec::Codebook codebook() const { return codebook_; }
  TileCoder& get(int worker, int bits);  // workers may call it at once, each with its own number

 private:
  codec::Codebook codebook_;
  std::vector<std::unique_ptr<TileCoder>> coders_;
};

struct CodedInner {
  std::vector<std::uint8_t> trellis;  // [in/16][out/16][32 * bits]
  std::vector<float> decoded;         // inner^T, [out, in]
};

// inner: the transposed inner matrix [out, in] in units of the codebook's values; ldl of its Hessian. after_column is
// called after every 16 outputs, by any worker; cancel is asked before each of them: Error(kCancelled).
CodedInner ldlq(const std::vector<float>& inner, int in, int out, const BlockLdl& ldl, int bits, TileCoders& coders,
                kernels::KernelContext& context, const std::function<void()>& after_column = {},
                const std::atomic<bool>* cancel = nullptr);

// The same with rounding replaced by Gaussian noise of a standard deviation: what ldlq does to a matrix, statistically,
// at a width whose error is that large, without the cost of coding. Returns inner^T with the errors.
std::vector<float> ldlq_noise(const std::vector<float>& inner, int in, int out, const BlockLdl& ldl, double deviation,
                              std::uint64_t seed, kernels::KernelContext& context);

}  // namespace fairway::quantize
