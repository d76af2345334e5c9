// The unit of work of every trellis kernel: one band of 128 outputs of a coded matrix times prepared rows of x.
//
// A band is eight tiles wide, which is one block of the output Hadamard transform, and for the hidden layer of an
// expert also one block of the input transform of the down projection. This header is the wall between the
// instruction-set files, which see raw pointers only, and the drivers of trellis_linear and moe_swiglu, which are
// compiled for the baseline CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/trellis.h"

namespace fairway::kernels {

constexpr int kBandWidth = codec::kHadamardDim;                        // outputs
constexpr int kBandTiles = kBandWidth / codec::kTileDim;               // tiles side by side
constexpr int kBlockTileRows = codec::kHadamardDim / codec::kTileDim;  // tile rows of one 128-input block

// Tiles of a band that a kernel can be asked for alone, so that two workers can share a band.
constexpr int kHalfBandTiles = kBandTiles / 2;

// Where tile rows of a band lie: row i is part_bytes at words + i * row_bytes. Null words: there is none.
struct BandPlace {
  const std::uint8_t* words = nullptr;
  std::int64_t row_bytes = 0, part_bytes = 0;
};

// A band of inner weights, or half of one. Tile row kt is tiles * 32 * bits contiguous bytes at words + kt * row_bytes,
// at any alignment; nothing outside these bytes is read.
struct Band {
  const std::uint8_t* words;
  std::int64_t row_bytes;  // from one tile row of the matrix to the next
  int in;                  // multiple of 128
  int bits;                // 1..8
  int tiles;               // kBandTiles or kHalfBandTiles
  codec::Codebook codebook;
  // The band that this thread will probably read next, a hint for prefetching and never read: its words if it has the
  // same shape and width, else its place.
  const std::uint8_t* next = nullptr;
  BandPlace next_apart = {};
};

// Vector operations on blocks of 128 floats. Every table gives the same bits.
struct BlockOps {
  // x[0..127] times the Hadamard matrix, in place.
  void (*hadamard)(float* x);
  // out[0..127] = (x * suh) H, where x has `count` elements (0..128) and counts as zero beyond.
  void (*transform_input)(const float* x, int count, const float* suh, float* out);
  // y[rows][128] = (y H) * svh + bias in place; bias may be null.
  void (*transform_output)(float* y, int rows, const float* svh, const float* bias);
  // out[i] = silu(gate[i]) * up[i] for i < count, 0 for count <= i < 128.
  void (*swiglu)(const float* gate, const float* up, int count, float* out);
};

// Codebooks that a kernel may read, as codebook_bit of registry.h has them. Constants, because that function must not
// be shared with instruction-set files.
constexpr std::uint8_t kMul1Only = 1u << static_cast<int>(codec::Codebook::kMul1);
constexpr std::uint8_t kPairBooks =  // a value is the sum of the two halves of the state's product
    1u << static_cast<int>(codec::Codebook::k3inst) | 1u << static_cast<int>(codec::Codebook::kMcg);

// One way of multiplying rows by bands. A prepared row is an opaque record of row_bytes(in) bytes, filled block by
// block (blocks may be stored by different threads), 64-byte aligned.
struct BandKernel {
  const BlockOps* ops;
  std::uint8_t codebooks;     // union of codebook_bit
  std::size_t scratch_bytes;  // private to one call of dot, 64-byte aligned
  std::size_t (*row_bytes)(int in);
  void (*store_block)(const float* x, std::uint8_t* row, int in, int block);
  // y[m][16 * tiles] = rows times the inner weights of the band; rows of x lie row_stride bytes apart, rows of y 128
  // floats. m >= 1.
  void (*dot)(const Band& band, const std::uint8_t* rows, std::int64_t row_stride, int m, float* y,
              std::uint8_t* scratch);
};

extern const BlockOps kBlockOpsRef, kBlockOpsAvx2, kBlockOpsAvx512;

// fp32 activations, any codebook. Rows sharing a decode: 1, 4, all of the call.
extern const BandKernel kBandF32SingleAvx2, kBandF32QuadAvx2, kBandF32PanelAvx2;
extern const BandKernel kBandF32SingleAvx512, kBandF32QuadAvx512, kBandF32PanelAvx512;

// int8 activations (per row and 128-input block) and weights as two bytes, mul1 only. Rows sharing a decode: 1, 4.
// Below, panels are shared by all rows of a call; they have 64 columns, or 128 (wide), which takes whole bands only.
extern const BandKernel kBandI8SingleAvx2, kBandI8QuadAvx2;
extern const BandKernel kBandI8SingleAvxVnni, kBandI8QuadAvxVnni;
extern const BandKernel kBandI8SingleAvx512, kBandI8QuadAvx512;

// The same for up to four rows with one body for all widths, which learns the width at run time.
extern const BandKernel kBandI8RuntimeAvx2, kBandI8RuntimeAvx512;

// The same with weights as one byte: less exact (0.76 % of a weight's deviation instead of 0.48 %), half the products.
extern const BandKernel kBandBytesPanelAvxVnni, kBandBytesWidePanelAvxVnni;
extern const BandKernel kBandBytesPanelAvx512, kBandBytesWidePanelAvx512;

// 3inst and mcg on processors with half-precision arithmetic: fp16 activations, and int8 with weights as one byte.
extern const BandKernel kBandF16SingleAvx512, kBandF16QuadAvx512, kBandF16PanelAvx512, kBandF16WidePanelAvx512;
extern const BandKernel kBandF16BytesPanelAvx512, kBandF16BytesWidePanelAvx512;

// 16-bit codes and 15-bit activations: as many products as with two bytes, nearly as exact as fp32.
extern const BandKernel kBandWordsPanelAvx2, kBandWordsWidePanelAvx2;
extern const BandKernel kBandWordsPanelAvxVnni, kBandWordsWidePanelAvxVnni;
extern const BandKernel kBandWordsPanelAvx512, kBandWordsWidePanelAvx512;

// 3inst and mcg with 12-bit codes and activations, on any processor with these instructions; and with weights as one
// byte (0.77 % of a weight's deviation). Gfni: with AVX-VNNI.
extern const BandKernel kBandI16SingleAvx2, kBandI16QuadAvx2, kBandI16PanelAvx2, kBandI16WidePanelAvx2;
extern const BandKernel kBandI16SingleGfni, kBandI16QuadGfni, kBandI16PanelGfni, kBandI16WidePanelGfni;
extern const BandKernel kBandI16SingleAvx512, kBandI16QuadAvx512, kBandI16PanelAvx512, kBandI16WidePanelAvx512;
extern const BandKernel kBandI16BytesPanelGfni, kBandI16BytesWidePanelGfni;
extern const BandKernel kBandI16BytesPanelAvx512, kBandI16BytesWidePanelAvx512;

}  // namespace fairway::kernels
