// Routes that the router's launch passes to the expert layer's, which polls them and does not wait for the end of that
// launch: that is nearly a microsecond sooner, of 40 that a layer takes for one row.
//
// A unit is an expert, as the bits of a float, and its weight, each with a number, see store_numbered(); the expert may
// be there first. The number is one more than *turn, which the expert layer counts up when all of it has the routes.
// The next routes are made after that, so the memory needs no clearing between them. Only at first units and turn have
// to be zero.
//
// For the few rows that can be passed on so this pays. Rows of activations do not: with all CTAs of linear layers
// polling their inputs a step of GLM-4.7-Flash was a tenth slower (o_proj alone 4 %, q_b_proj 4 %, the first
// projections 1 %).
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

struct AnnouncedRoutes {
  uint4* units = nullptr;    // [rows, top_k], device memory; null: nothing is announced
  unsigned* turn = nullptr;  // device memory
  // Of one row, or null: gets the number when the row in front of the norm is there. Then the expert layer's launch may
  // start while the kernel in front of the router still writes that row, and be ready when it is done.
  unsigned* row = nullptr;
};

}  // namespace fairway::kernels::cuda
