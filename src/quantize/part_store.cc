// Opening, filling and reading the work folder.
#include "quantize/part_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>

#include "fairway/error.h"
#include "formats/durable_file.h"
#include "formats/json.h"
#include "formats/json_text.h"
#include "formats/mapped_file.h"
#include "formats/sha256.h"
#include "quantize/folder_lock.h"
#include "quantize/part_file.h"

namespace fairway::quantize {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kJobName = "job.json";
constexpr const char* kFormat = "fairway-parts-1";
constexpr std::string_view kPartEnd = ".safetensors";
constexpr std::size_t kMaxJobBytes = 16u << 20;
constexpr std::size_t kMaxPrefixBytes = 180;  // leaves room for the endings in a file name of 255 bytes

// A module key becomes a file name, so it may hold nothing that a path gives a meaning to.
std::string part_name(const std::string& prefix) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  const bool good = !prefix.empty() && prefix.front() != '.' && prefix.size() <= kMaxPrefixBytes &&
                    std::all_of(prefix.begin(), prefix.end(), plain);
  if (!good) {
    throw Error(ErrorKind::kUsage, fmt::format("matrix \"{}\": not a module key of letters, digits, dots, dashes and "
                                               "underscores with at most {} bytes",
                                               formats::printable(prefix), kMaxPrefixBytes));
  }
  return prefix + std::string(kPartEnd);
}

std::string short_text(const json& value) {
  return formats::printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

// "options/bits is 3 there and 2.5 here", the first difference in the order of keys.
std::string first_difference(const json& there, const json& here) {
  const auto flat = [](const json& value) {
    std::map<std::string, json> entries;
    const json flattened = value.flatten();
    for (const auto& [key, entry] : flattened.items()) entries.emplace(key, entry);
    return entries;
  };
  const auto theirs = flat(there), ours = flat(here);
  for (const auto& [key, value] : ours) {
    const auto at = theirs.find(key);
    if (at == theirs.end()) return fmt::format("{} is missing there and {} here", key.substr(1), short_text(value));
    if (at->second != value) {
      return fmt::format("{} is {} there and {} here", key.substr(1), short_text(at->second), short_text(value));
    }
  }
  for (const auto& [key, value] : theirs) {
    if (!ours.contains(key)) return fmt::format("{} is {} there and missing here", key.substr(1), short_text(value));
  }
  return "the order of its lists differs";
}

// Through its text, as the job will be read back: a number that text cannot hold must not look like a difference.
json as_read_back(const nlohmann::ordered_json& fingerprint) {
  return json::parse(fingerprint.dump());
}

PartShape shape_of(const QuantizedLinear& linear) {
  return {linear.in, linear.out, linear.bits, linear.codebook, !linear.bias.empty()};
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) throw Error(ErrorKind::kResource, fmt::format("{}: cannot remove: {}", path.string(), error.message()));
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || !fs::is_directory(folder)) {
    throw Error(ErrorKind::kResource, fmt::format("{}: cannot create the work folder: {}", folder.string(),
                                                  error ? error.message() : "a file has this name"));
  }
}

}  // namespace

struct PartStore::State {
  struct Finished {
    PartShape shape;
    nlohmann::ordered_json facts = nlohmann::ordered_json::object();
  };

  fs::path folder;
  json fingerprint = json::object();  // keys sorted, so that their order does not matter
  std::string job;
  std::optional<FolderLock> lock;
  std::vector<std::string> discarded;
  mutable std::mutex mutex;
  std::map<std::string, Finished> parts;

  // Prefixes of the files that look like parts; unfinished files are removed, unknown ones refused.
  std::vector<std::string> list() {
    std::vector<std::string> prefixes;
    std::vector<fs::path> unfinished;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name == FolderLock::kName || name == kJobName) continue;
      const bool file = entry.symlink_status().type() == fs::file_type::regular;
      if (file && name.find(formats::kPartialMark) != std::string::npos) {
        unfinished.push_back(entry.path());
      } else if (file && name.ends_with(kPartEnd)) {
        prefixes.push_back(name.substr(0, name.size() - kPartEnd.size()));
      } else {
        throw Error(ErrorKind::kUsage, fmt::format("{}: holds \"{}\", which no work folder of fairway does; choose "
                                                   "another --out or remove it",
                                                   folder.string(), formats::printable(name)));
      }
    }
    for (const fs::path& path : unfinished) discard(path, "unfinished");
    std::sort(prefixes.begin(), prefixes.end());
    return prefixes;
  }

  void discard(const fs::path& path, const std::string& reason) {
    remove_file(path);
    discarded.push_back(fmt::format("{}: {}", path.string(), reason));
  }

  // Nothing if job.json is the one of this job, else what is different about it.
  std::string difference() const {
    const fs::path path = folder / kJobName;
    try {
      const json document = formats::parse_json(formats::read_text_file(path, kMaxJobBytes), path.string());
      if (!document.is_object() || document.value("format", json()) != kFormat || !document.contains("fingerprint")) {
        return fmt::format("its {} is not of the format {}", kJobName, kFormat);
      }
      return document["fingerprint"] == fingerprint ? "" : first_difference(document["fingerprint"], fingerprint);
    } catch (const Error& error) {
      return error.what();
    }
  }

  void open(bool force) {
    std::vector<std::string> prefixes = list();
    const bool has_job = formats::is_present(folder / kJobName);
    if (!has_job && !prefixes.empty()) {  // job.json is written before the first part and removed after the last
      throw Error(ErrorKind::kUsage, fmt::format("{}: holds {} safetensors files but no {}, so it is no work folder of "
                                                 "fairway; choose another --out or remove it",
                                                 folder.string(), prefixes.size(), kJobName));
    }
    if (const std::string other = has_job ? difference() : ""; !other.empty()) {
      if (!force) {
        throw Error(ErrorKind::kUsage, fmt::format("{}: belongs to another job: {}; --force discards its {} finished "
                                                   "matrices, another --out keeps them",
                                                   folder.string(), other, prefixes.size()));
      }
      for (const std::string& prefix : prefixes) discard(folder / part_name(prefix), "of another job");
      remove_file(folder / kJobName);
      prefixes.clear();
    }
    if (!formats::is_present(folder / kJobName)) {
      formats::write_file_durably(folder / kJobName,
                                  formats::json_text({{"format", kFormat}, {"fingerprint", fingerprint}}));
    }
    for (const std::string& prefix : prefixes) recover(prefix);
  }

  void recover(const std::string& prefix) {
    const fs::path path = folder / (prefix + std::string(kPartEnd));
    try {
      part_name(prefix);
      Part part = read_part(path, job, prefix);
      parts[prefix] = {shape_of(part.linear), std::move(part.facts)};
    } catch (const Error& error) {
      remove_file(path);
      discarded.emplace_back(error.what());
    }
  }

  Finished find(const std::string& prefix) const {
    const std::lock_guard<std::mutex> guard(mutex);
    const auto at = parts.find(prefix);
    if (at != parts.end()) return at->second;
    throw Error(ErrorKind::kBadInput, fmt::format("{}: matrix \"{}\" is not finished", folder.string(), prefix));
  }
};

PartStore::PartStore(fs::path folder, const nlohmann::ordered_json& fingerprint, bool force)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.folder = std::move(folder);
  s.fingerprint = as_read_back(fingerprint);
  s.job = job_of(fingerprint);
  make_folder(s.folder);
  s.lock.emplace(s.folder);
  try {
    s.open(force);
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorKind::kResource, fmt::format("{}: cannot list: {}", s.folder.string(), error.code().message()));
  }
}

PartStore::~PartStore() = default;

std::string PartStore::job_of(const nlohmann::ordered_json& fingerprint) {
  formats::Sha256 hash;
  hash.add(as_read_back(fingerprint).dump());
  return formats::hex(hash.finish());
}

bool PartStore::has(const std::string& prefix) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  return state_->parts.contains(prefix);
}

std::size_t PartStore::size() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  return state_->parts.size();
}

void PartStore::put(const QuantizedLinear& linear, const nlohmann::ordered_json& facts) {
  write_part(state_->folder / part_name(linear.prefix), state_->job, linear, facts);
  nlohmann::ordered_json read_back = nlohmann::ordered_json::parse(facts.dump());  // a NaN becomes null
  const std::lock_guard<std::mutex> guard(state_->mutex);
  state_->parts[linear.prefix] = {shape_of(linear), std::move(read_back)};
}

QuantizedLinear PartStore::load(const std::string& prefix) const {
  state_->find(prefix);  // complains about one that is absent
  return read_part(state_->folder / part_name(prefix), state_->job, prefix).linear;
}

nlohmann::ordered_json PartStore::facts(const std::string& prefix) const {
  return state_->find(prefix).facts;
}

PartShape PartStore::shape(const std::string& prefix) const {
  return state_->find(prefix).shape;
}

const fs::path& PartStore::folder() const {
  return state_->folder;
}
const std::string& PartStore::job() const {
  return state_->job;
}
const std::vector<std::string>& PartStore::discarded() const {
  return state_->discarded;
}

void PartStore::remove_all() {
  State& s = *state_;
  for (const std::string& prefix : s.list()) remove_file(s.folder / (prefix + std::string(kPartEnd)));
  formats::sync_directory(s.folder);
  remove_file(s.folder / kJobName);
  s.parts.clear();
  s.lock->remove();
  std::error_code ignored;  // another process may have begun a job in it
  fs::remove(s.folder, ignored);
}

}  // namespace fairway::quantize
