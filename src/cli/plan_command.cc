// Verify commands of plans: what is allowed in them, and how they run, without a shell.
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/plan.h"

extern char** environ;

namespace fairway::cli {
namespace {

// Commands of fairway that only read.
const std::set<std::string> kReading = {"verify", "explain", "kernels", "inspect", "eval", "run"};
// Options of rg and grep without a value, that both have.
constexpr std::string_view kSearchFlags = "qFEiwxclnv";

std::string lint_fairway(const std::vector<std::string>& command) {
  if (command.size() < 2 || !kReading.contains(command[1])) {
    return fmt::format("`fairway {}` is not allowed here; allowed are {}", command.size() < 2 ? "" : command[1],
                       fmt::join(kReading, ", "));
  }
  // The real parser: it knows every option, and what values they take.
  Invocation call;
  CLI::App app;
  add_commands(app, call);
  std::vector<std::string> arguments(command.rbegin(), command.rend() - 1);  // the parser takes them backwards
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return "--help and --version verify nothing";
    return fmt::format("`{}`: {}", fmt::join(command, " "), e.what());
  }
  return {};
}

bool is_search_flags(const std::string& argument) {
  return argument.size() > 1 && argument[0] == '-' && std::all_of(argument.begin() + 1, argument.end(), [](char c) {
           return kSearchFlags.find(c) != std::string_view::npos;
         });
}

std::string lint_search(const std::vector<std::string>& command) {
  std::size_t i = 1;
  while (i < command.size() && is_search_flags(command[i])) ++i;
  const bool separated = i < command.size() && command[i] == "--";
  if (separated) ++i;
  for (std::size_t rest = i; rest < command.size() && !separated; ++rest) {
    if (command[rest].starts_with("-")) {
      return fmt::format("{} would take '{}' as an option; write `--` before a pattern that begins with a dash",
                         command[0], command[rest]);
    }
  }
  if (command.size() - i < 2) return fmt::format("{} needs a pattern and at least one file", command[0]);
  if (command[i].empty()) return fmt::format("{} has an empty pattern, which is found everywhere", command[0]);
  return {};
}

}  // namespace

std::string lint_command(const std::vector<std::string>& command) {
  if (command.empty()) return "the command is empty";
  for (const std::string& argument : command) {
    if (argument.find('\0') != std::string::npos) return "an argument holds a NUL";
  }
  if (command[0] == "fairway") return lint_fairway(command);
  if (command[0] == "rg" || command[0] == "grep") return lint_search(command);
  return fmt::format("the program '{}' is not known; known are fairway, grep and rg", command[0]);
}

int run_command(const std::vector<std::string>& command) {
  std::error_code error;
  std::string program = command[0];
  if (program == "fairway") program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    throw Error(ErrorKind::kResource, fmt::format("verify: cannot start '{}': {}", command[0], std::strerror(failed)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace fairway::cli
