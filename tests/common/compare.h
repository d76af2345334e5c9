// The comparator under the name that tests use; it lives with `fairway verify`.
#pragma once

#include "kernels/verify/compare.h"

namespace fairway::test {

using verify::Bound;
using verify::compare;
using verify::compare_exact;

}  // namespace fairway::test
