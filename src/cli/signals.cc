// Signal handlers that only touch a lock-free flag.
#include "cli/signals.h"

#include <fmt/core.h>
#include <unistd.h>

#include <csignal>

#include "cli/cli.h"
#include "fairway/error.h"

namespace fairway::cli {
namespace {

std::atomic<bool> g_cancel{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only use lock-free atomics");

extern "C" void on_stop_signal(int) {
  if (g_cancel.exchange(true)) _exit(kExitInterrupted);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_stop_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read from standard input ends, so that Ctrl-C works while waiting for it
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

const std::atomic<bool>& cancel_requested() {
  return g_cancel;
}

void throw_if_cancelled(const char* what) {
  if (g_cancel.load()) throw Error(ErrorKind::kCancelled, fmt::format("interrupted while {}", what));
}

}  // namespace fairway::cli
