// Checks, staging and the final rename.
#include "quantize/destination.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "fairway/error.h"
#include "formats/durable_file.h"
#include "formats/json.h"
#include "formats/mapped_file.h"

namespace fairway::quantize {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModel = "model";        // the new model, being written
constexpr const char* kReplaced = "replaced";  // the old one, between the two renames of publish()

// Absolute, without links and without a slash at the end.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  const fs::path full = fs::weakly_canonical(fs::absolute(path), error);
  if (error) throw Error(ErrorKind::kResource, fmt::format("{}: {}", path.string(), error.message()));
  return full.has_filename() ? full : full.parent_path();
}

bool contains(const fs::path& folder, const fs::path& path) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first == folder.end();
}

bool is_occupied(const fs::path& out) {
  return fs::exists(fs::symlink_status(out)) && !(fs::is_directory(out) && fs::is_empty(out));
}

fs::path staging_of(const fs::path& resolved_out) {
  return resolved_out.string() + ".assembling";
}

void check_writable(const fs::path& out) {
  fs::path folder = out.parent_path();
  while (!fs::exists(folder) && folder.has_parent_path() && folder != folder.parent_path())
    folder = folder.parent_path();
  if (!fs::is_directory(folder) || ::access(folder.c_str(), W_OK | X_OK) != 0) {
    const int reason = fs::is_directory(folder) ? errno : ENOTDIR;
    throw Error(ErrorKind::kResource, fmt::format("--out {}: cannot write to the folder {}: {}", out.string(),
                                                  folder.string(), std::strerror(reason)));
  }
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) {
    throw Error(ErrorKind::kResource,
                fmt::format("{}: cannot rename to {}: {}", from.string(), to.string(), error.message()));
  }
}

// Every call here may meet a file system that fails.
template <typename Step>
void with_resource_errors(const Step& step) {
  try {
    step();
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorKind::kResource, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  }
}

}  // namespace

void check_destination(const fs::path& source, const fs::path& work, const fs::path& out, bool force) {
  with_resource_errors([&] {
    const fs::path to = resolved(out), from = resolved(source);
    const auto refuse = [&](const std::string& what) {
      throw Error(ErrorKind::kUsage, fmt::format("--out {} {}", out.string(), what));
    };
    if (to == from) refuse("is the source model");
    if (contains(from, to)) refuse(fmt::format("lies inside the source model {}", source.string()));
    if (contains(to, from)) refuse(fmt::format("contains the source model {}", source.string()));
    if (contains(to, resolved(work))) refuse(fmt::format("contains the work folder {}", work.string()));
    check_writable(to);
    if (!is_occupied(to)) return;
    if (!fs::is_directory(to)) refuse("is a file");
    if (!force) refuse("is not empty; --force replaces the model in it");
    if (!fs::exists(to / "config.json")) refuse("holds no config.json, so --force does not replace it");
  });
}

Destination::Destination(const fs::path& out) : out_(resolved(out)), staging_(staging_of(out_)) {
  with_resource_errors([&] {
    fs::create_directories(staging_);
    lock_ = std::make_unique<FolderLock>(staging_);
    for (const fs::directory_entry& entry : fs::directory_iterator(staging_)) {
      const std::string name = entry.path().filename().string();
      if (name == kModel || name == kReplaced || name == FolderLock::kName) continue;
      throw Error(ErrorKind::kUsage, fmt::format("{}: holds \"{}\", which fairway does not write; remove it",
                                                 staging_.string(), formats::printable(name)));
    }
    if (fs::exists(staging_ / kReplaced) && !is_occupied(out_)) rename_or_fail(staging_ / kReplaced, out_);
    clean();
    fs::create_directory(folder());
  });
}

Destination::~Destination() {
  if (lock_ == nullptr) return;
  try {
    clean();
    lock_->remove();
    std::error_code ignored;
    fs::remove(staging_, ignored);
  } catch (const std::exception&) {
    // Left for the next run, which begins by removing it; a destructor has nobody to tell.
  }
}

void Destination::remove_leftovers(const fs::path& out) {
  if (formats::is_present(staging_of(resolved(out)))) Destination{out};
}

void Destination::clean() {
  fs::remove_all(staging_ / kModel);
  fs::remove_all(staging_ / kReplaced);
}

void Destination::require_space(std::int64_t bytes) const {
  std::error_code error;
  const fs::space_info space = fs::space(staging_, error);
  if (error) throw Error(ErrorKind::kResource, fmt::format("{}: {}", staging_.string(), error.message()));
  if (bytes < 0 || static_cast<std::uint64_t>(bytes) > space.available) {
    throw Error(ErrorKind::kResource,
                fmt::format("--out {}: the model needs {} bytes, {} are free", out_.string(), bytes, space.available));
  }
}

void Destination::publish(bool force) {
  with_resource_errors([&] {
    formats::sync_directory(folder());
    const bool replace = is_occupied(out_);
    if (replace && !force) {
      throw Error(ErrorKind::kUsage, fmt::format("--out {}: was filled in the meantime", out_.string()));
    }
    if (replace) rename_or_fail(out_, staging_ / kReplaced);
    try {
      rename_or_fail(folder(), out_);
    } catch (const Error&) {
      if (replace) rename_or_fail(staging_ / kReplaced, out_);
      throw;
    }
    formats::sync_directory(out_.parent_path());
  });
}

}  // namespace fairway::quantize
