// Ctrl-C: the first one asks the running command to stop, the second ends the process.
#pragma once

#include <atomic>

namespace fairway::cli {

// SIGINT and SIGTERM. Safe to call more than once.
void install_signal_handlers();

// True once the user asked to stop. Commands poll it, and hand it to the engine.
const std::atomic<bool>& cancel_requested();

// Throws Error(kCancelled) naming what was under way, if the user asked to stop.
void throw_if_cancelled(const char* what);

}  // namespace fairway::cli
