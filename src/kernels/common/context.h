// What every kernel call gets besides its operands: who works and where scratch memory comes from.
#pragma once

#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"

namespace fairway::kernels {

struct KernelContext {
  backend::ThreadPool& pool;
  backend::Workspace& workspace;
};

}  // namespace fairway::kernels
