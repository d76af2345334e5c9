// Threads and scratch for code that works on a KernelContext.
#pragma once

#include "kernels/common/context.h"

namespace fairway::test {

struct Machine {
  explicit Machine(int threads = 2) : pool(threads), context{pool, workspace} {}
  backend::ThreadPool pool;
  backend::Workspace workspace;
  kernels::KernelContext context;
};

}  // namespace fairway::test
