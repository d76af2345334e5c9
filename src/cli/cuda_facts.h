// The CUDA devices of this machine, or why there are none, for the commands that describe the machine.
#pragma once

#include <string>

#include "cli/output.h"

namespace fairway::cli {

// "devices" (empty if there is none), "absent" (the reason, null if there is one), "driver", "runtime", "compiled_for".
Json cuda_json();

// Lines that each end with a newline: one per device, or one with the reason.
std::string cuda_text();

}  // namespace fairway::cli
