// Plans of `fairway autotune`: tasks in a YAML file.
#pragma once

#include <string>
#include <vector>

#include "cli/tune_task.h"

namespace fairway::cli {

// Error(kBadInput) names file, line and key. Unknown and repeated keys, values of a wrong type and verify commands that
// fail the lint are errors. Quick or not, defaults are not filled in.
std::vector<TuneTask> read_plan(const std::string& path);
std::vector<TuneTask> parse_plan(const std::string& text, const std::string& source);

std::string plan_text(const std::vector<TuneTask>& tasks);

// What is wrong with a verify command; empty: nothing. A command is a program and its arguments, never a line for a
// shell: `fairway` with options that it has, or `rg` or `grep`, whose pattern, if it begins with a dash, must stand
// behind `--`.
std::string lint_command(const std::vector<std::string>& command);

// Exit code of the command; its output goes to standard error. `fairway` is this program, wherever it lies.
int run_command(const std::vector<std::string>& command);

}  // namespace fairway::cli
