// fairway-manifest.json: how a checkpoint was made, and size and SHA-256 of each of its files.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/sha256.h"

namespace fairway::quantize {

inline constexpr const char* kManifestName = "fairway-manifest.json";

struct Manifest {
  std::string job;  // SHA-256 of the fingerprint of the job that made the checkpoint
  std::map<std::string, formats::FileDigest> files;
};

// Nothing if DIR has none. Error(kBadInput) if it is malformed.
std::optional<Manifest> read_manifest(const std::filesystem::path& dir);

// Text of a manifest over all files that are in DIR now. `about` are the entries that stand before "files"; nothing in
// it may depend on time or place, so that the same job always gives the same bytes.
std::string manifest_text(const std::filesystem::path& dir, const std::string& job, const nlohmann::ordered_json& about,
                          const std::function<void(const std::string& file)>& progress,
                          const std::atomic<bool>* cancel);

// Names of the regular files in DIR except the manifest, sorted.
std::vector<std::string> manifest_files(const std::filesystem::path& dir);

}  // namespace fairway::quantize
