// The check of a finished EXL3 directory: every rule of the format, the files' hashes, and every tile decoded.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fairway::quantize {

struct ModelCheck {
  std::vector<std::string> problems;  // one line each: file, tensor or key, the value found, what was expected
  std::vector<std::string> notes;     // what is unusual and allowed
  int tensors = 0;
  int trellis_linears = 0;
  std::int64_t tiles = 0;  // decoded
  int files_hashed = 0;    // compared with the manifest
  bool has_manifest = false;
};

struct ModelCheckOptions {
  int threads = 0;  // of the decoding; 0: one per processor
  std::function<void(double share, const std::string& what)> progress;
  const std::atomic<bool>* cancel = nullptr;
};

// Goes on after a problem as far as it can. Error(kBadInput) only if DIR is no directory that can be listed,
// Error(kCancelled).
ModelCheck verify_model(const std::filesystem::path& dir, const ModelCheckOptions& options = {});

}  // namespace fairway::quantize
