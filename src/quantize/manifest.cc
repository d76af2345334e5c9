// Writing and reading the manifest.
#include "quantize/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "fairway/error.h"
#include "formats/json.h"
#include "formats/json_field.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"

namespace fairway::quantize {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "fairway-manifest-1";
constexpr std::size_t kMaxManifestBytes = 256u << 20;
constexpr std::size_t kHexDigits = 64;

bool is_digest(const std::string& text) {
  return text.size() == kHexDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string read_digest(const formats::JsonField& field) {
  if (!is_digest(field.string())) field.bad("expected a SHA-256 as 64 lower-case hex digits");
  return field.string();
}

}  // namespace

std::optional<Manifest> read_manifest(const fs::path& dir) {
  const fs::path path = dir / kManifestName;
  if (!formats::is_present(path)) return std::nullopt;
  const nlohmann::json document = formats::parse_json(formats::read_text_file(path, kMaxManifestBytes), path.string());
  const formats::JsonField root(document, path.string());
  if (root.at("format").string() != kFormat) {
    root.unsupported(
        fmt::format("format is \"{}\", expected \"{}\"", formats::printable(root.at("format").string(), 60), kFormat));
  }
  Manifest manifest{.job = read_digest(root.at("job")), .files = {}};
  const formats::JsonField files = root.at("files");
  for (const auto& [name, unused] : files.object()) {
    if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      files.bad(fmt::format("\"{}\" is not the plain name of a file", formats::printable(name, 60)));
    }
    const formats::JsonField entry = files.at(name);
    manifest.files[name] = {read_digest(entry.at("sha256")),
                            entry.at("bytes").integer(0, std::numeric_limits<std::int64_t>::max())};
  }
  return manifest;
}

std::vector<std::string> manifest_files(const fs::path& dir) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (name != kManifestName && entry.is_regular_file()) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string manifest_text(const fs::path& dir, const std::string& job, const nlohmann::ordered_json& about,
                          const std::function<void(const std::string& file)>& progress,
                          const std::atomic<bool>* cancel) {
  nlohmann::ordered_json manifest = {{"format", kFormat}, {"job", job}};
  manifest.update(about);
  manifest["files"] = nlohmann::ordered_json::object();
  for (const std::string& name : manifest_files(dir)) {
    progress(name);
    const formats::FileDigest digest = formats::digest_file(dir / name, cancel);
    manifest["files"][name] = {{"bytes", digest.bytes}, {"sha256", digest.sha256}};
  }
  return formats::json_text(manifest);
}

}  // namespace fairway::quantize
