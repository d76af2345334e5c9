// Application setup, and the one place where errors become messages and exit codes.
#include "cli/cli.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <sstream>
#include <string_view>
#include <system_error>

#include "cli/output.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

bool asks_for_json(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json") return true;
  }
  return false;
}

// Parser messages span lines now and then; scripts get one.
std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

int report_error(const std::string& message, const char* kind, int code, bool json) {
  fmt::print(stderr, "fairway: error: {}\n", one_line(message));
  if (json) print_json({{"error", one_line(message)}, {"kind", kind}});
  return code;
}

int report_parse_result(const CLI::App& app, const CLI::ParseError& error, bool json) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    std::ostringstream out, err;
    const int code = app.exit(error, out, err);  // --help or --version
    print_text(out.str());
    return code;
  }
  std::string where = "fairway";
  for (const CLI::App* sub = &app; !sub->get_subcommands().empty();) {
    sub = sub->get_subcommands().front();
    where += " " + sub->get_name();
  }
  // A misspelt option is the cause of most missing ones, so it is what to report.
  const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  const std::string problem =
      unknown.empty() ? one_line(error.what()) : fmt::format("unknown argument {}", fmt::join(unknown, " "));
  return report_error(fmt::format("{} (see `{} --help`)", problem, where), "usage", kExitBadInput, json);
}

int run_action(const Invocation& call) {
  try {
    return call.action();
  } catch (const Error& e) {
    return report_error(e.what(), error_kind_name(e.kind()), exit_code_of(e.kind()), call.json);
  } catch (const std::bad_alloc&) {
    return report_error("out of memory", error_kind_name(ErrorKind::kResource), kExitResource, call.json);
  } catch (const std::system_error& e) {  // the system refused a thread, a directory, a copy
    return report_error(e.what(), error_kind_name(ErrorKind::kResource), kExitResource, call.json);
  } catch (const std::exception& e) {
    return report_error(fmt::format("internal error: {}", e.what()), "internal", kExitInternal, call.json);
  }
}

// Text lost on a full disk or a closed descriptor must not look like success.
int close_stdout(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  fmt::print(stderr, "fairway: error: writing to standard output failed\n");
  return code == kExitOk ? kExitResource : code;
}

}  // namespace

int exit_code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
    case ErrorKind::kBadInput:
    case ErrorKind::kUnsupported:
      return kExitBadInput;
    case ErrorKind::kResource:
      return kExitResource;
    case ErrorKind::kCancelled:
      return kExitInterrupted;
  }
  return kExitInternal;
}

const char* error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kBadInput:
      return "bad_input";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kResource:
      return "resource";
    case ErrorKind::kCancelled:
      return "cancelled";
  }
  return "internal";
}

std::string help_footer(const std::string& example) {
  return fmt::format(
      "Example:\n  {}\n\nExit codes: 0 success, 1 internal error, 2 bad input or usage, 3 not enough memory or "
      "disk,\n"
      "130 interrupted (a second Ctrl-C ends the program at once).",
      example);
}

void add_commands(CLI::App& app, Invocation& call) {
  app.option_defaults()
      ->take_last();  // scripts append options to override earlier ones; set before the commands copy it
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("fairway {}", kVersion));
  app.footer(help_footer("fairway run --model models/books-moe --prompt \"It was a dark\" --max-tokens 40"));
  add_run_command(app, call);
  add_eval_command(app, call);
  add_compare_command(app, call);
  add_inspect_command(app, call);
  add_kernels_command(app, call);
  add_bench_command(app, call);
  add_synth_command(app, call);
  add_verify_command(app, call);
  add_verify_model_command(app, call);
  add_explain_command(app, call);
  add_autotune_command(app, call);
  add_optimize_command(app, call);
  add_quantize_command(app, call);
}

int run_cli(int argc, const char* const* argv) {
  install_signal_handlers();
  Invocation call;
  CLI::App app("Runs mixture-of-experts language models from trellis-coded (EXL3) weights.", "fairway");
  try {
    add_commands(app, call);
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return close_stdout(report_parse_result(app, e, asks_for_json(argc, argv)));
  } catch (const std::exception& e) {
    return report_error(fmt::format("internal error: {}", e.what()), "internal", kExitInternal, false);
  }
  return close_stdout(run_action(call));
}

}  // namespace fairway::cli
