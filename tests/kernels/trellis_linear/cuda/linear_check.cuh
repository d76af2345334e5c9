// Random matrices through every path of the CUDA linear layer, compared with double precision.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/trellis_linear/cuda/trellis_linear_cuda.cuh"

namespace fairway::kernels::cuda::check {

struct LinearMatrix {
  int out, out_exact;
  int bits;      // 0: random
  int codebook;  // codec::Codebook, or -1: random
  int suh;       // matrices with the same number share their input scales
  bool bias, add;
};

struct LinearShape {
  std::string name;
  int in, in_exact;  // columns of x from in_exact on are zero
  std::vector<LinearMatrix> matrices;
  std::uint64_t seed;
  // An RMS norm in front, of rows of in_exact numbers and of sizes from 1e-3 to 1e3; with something that is added
  // first, whose sum is stored.
  bool norm = false, norm_adds = false;
};

const std::vector<LinearPath> kEveryPath{LinearPath::kIntFew, LinearPath::kHalfFew, LinearPath::kInt4,
                                         LinearPath::kInt8,   LinearPath::kHalf8,   LinearPath::kHalf16,
                                         LinearPath::kHalf32, LinearPath::kWide128};

// Every legal path of those given with every number of rows that it takes. Rows of x and y are longer than they need to
// be. Outputs (those that nothing is added to) and scratch are poisoned before each run, what lies beyond out_exact
// must keep its poison, and a second run after another poison must give the same bits. Prints the worst error of a row
// by path.
//
// Bound: |row - reference| <= 0.003 |reference| for every row of the products. Inputs are rounded to halves after their
// transform (2^-12 relative at most), the integer paths add 15-bit fixed point and the affine form of mul1 (2e-4). What
// is added to a product is of its size.
void check_linear(const LinearShape& shape, const std::vector<int>& row_counts,
                  const std::vector<LinearPath>& paths = kEveryPath);

}  // namespace fairway::kernels::cuda::check
