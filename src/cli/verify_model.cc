// fairway verify-model: every rule of the EXL3 format on a finished directory, and its files against the manifest.
#include "quantize/verify_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "cli/cli.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

struct VerifyModelOptions {
  std::string model;
  int threads = 0;
};

Json check_json(const std::string& model, const quantize::ModelCheck& check) {
  return {{"model", model},
          {"ok", check.problems.empty()},
          {"problems", check.problems},
          {"notes", check.notes},
          {"tensors", check.tensors},
          {"trellis_linears", check.trellis_linears},
          {"tiles_decoded", check.tiles},
          {"manifest", check.has_manifest},
          {"files_hashed", check.files_hashed}};
}

std::string check_text(const std::string& model, const quantize::ModelCheck& check) {
  std::string text;
  for (const std::string& note : check.notes) text += fmt::format("note: {}\n", note);
  const std::string count = check.problems.empty()       ? "no problems"
                            : check.problems.size() == 1 ? "1 problem"
                                                         : fmt::format("{} problems", check.problems.size());
  return text +
         fmt::format("{}: {}; {} tensors, {} coded linears, {} tiles decoded, {} files compared with the manifest\n",
                     model, count, check.tensors, check.trellis_linears, check.tiles, check.files_hashed);
}

void print_problems(const std::vector<std::string>& problems) {
  constexpr std::size_t kMost = 50;  // one mistake of a writer can be in every tensor; --json has all lines
  for (std::size_t i = 0; i < std::min(kMost, problems.size()); ++i) {
    fmt::print(stderr, "fairway: error: {}\n", problems[i]);
  }
  if (problems.size() > kMost) fmt::print(stderr, "fairway: error: and {} more\n", problems.size() - kMost);
}

int verify_model(const VerifyModelOptions& options, bool json) {
  Progress progress("verify-model");
  quantize::ModelCheckOptions check;
  check.threads = options.threads;
  check.cancel = &cancel_requested();
  check.progress = [&](double share, const std::string& what) { progress.update(share, what); };
  const quantize::ModelCheck result = quantize::verify_model(options.model, check);
  progress.clear();
  print_problems(result.problems);
  if (json) {
    print_json(check_json(options.model, result));
  } else {
    print_text(check_text(options.model, result));
  }
  return result.problems.empty() ? kExitOk : kExitBadInput;
}

}  // namespace

void add_verify_model_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<VerifyModelOptions>();
  CLI::App* command = add_command(app, call, "verify-model",
                                  "Check a quantized model: rules of the format, every tile, hashes of its files",
                                  "fairway verify-model models/books-moe");
  command->add_option("model", options->model, "Directory of the model")->required()->type_name("DIR");
  add_threads_option(*command, options->threads);
  command->callback([options, &call] { call.action = [options, &call] { return verify_model(*options, call.json); }; });
}

}  // namespace fairway::cli
