// Lookups in a tuned table, and its files.
#include "select/tuned_table.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <system_error>

#include "backend/cpu/features.h"
#include "fairway/error.h"
#include "select/thresholds.h"

namespace fairway::select {
namespace {

namespace fs = std::filesystem;

constexpr double kNearTokens = 2;  // most that tokens may differ, as a ratio
constexpr double kNearLayer = 4;   // most that two layers may differ in work per token

std::string microcode() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (line.starts_with("microcode") && colon != line.npos) {
      const auto begin = line.find_first_not_of(" \t", colon + 1);
      return begin == line.npos ? std::string() : line.substr(begin);
    }
  }
  return {};
}

// Changes with every row, tile or range that selection could see.
std::string registry_hash() {
  std::uint64_t hash = 0xCBF29CE484222325u;
  const auto add = [&](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  };
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    const kernels::KernelRow& r = row.info;
    add(fmt::format("{};{};{};{};{};{};{};{};{}\n", r.id, r.codebooks, static_cast<int>(r.codes), r.m_min, r.m_max,
                    static_cast<int>(r.use), r.tile.m, r.tile.n, r.tile.workers));
  }
  return fmt::format("{:016x}", hash);
}

// Multiply-adds per token and expert rows that share work: what makes two layers alike.
double work_of(const MoeLayerTraits& t) {
  return static_cast<double>(t.hidden) * t.intermediate * (t.top_k + t.always_on);
}
double ratio(double a, double b) {
  return a > b ? a / b : b / a;
}

// What a file says may hold anything; a line for the user holds no control characters.
std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  return text;
}

std::string variant_of(const kernels::KernelRow& row) {
  if (row.use == kernels::RowUse::kByCall) return "grouped";
  if (row.m_max == 1) return "decode";
  if (row.m_max == 16) return "prefill";
  if (row.m_min == 33) return "large_batch";
  return "base";
}

}  // namespace

KernelConfig config_of(const MoeCandidate& candidate) {
  const kernels::KernelRow& row = candidate.row->info;
  return {row.id,
          candidate.tile.m,
          candidate.tile.n,
          candidate.tile.workers,
          row.activations == kernels::Activations::kFp32,
          variant_of(row)};
}

MoeCandidate candidate_of(const KernelConfig& config) {
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    if (config.kernel_name != row.info.id) continue;
    const kernels::Tile tile{config.tile_size_m, config.tile_size_n, config.simdgroups};
    if (tile != row.info.tile && !kernels::is_legal_tile(tile)) {
      throw Error(ErrorKind::kUsage, fmt::format("kernel '{}': tile of m {}, n {}, {} simdgroups is not legal",
                                                 config.kernel_name, tile.m, tile.n, tile.workers));
    }
    return {&row, tile};
  }
  throw Error(ErrorKind::kUsage, fmt::format("kernel row '{}' does not exist", config.kernel_name));
}

DeviceStamp this_device_stamp() {
  return {this_device_name(), std::string(this_device().family), microcode(), backend::cpu_info().cores,
          registry_hash()};
}

void TunedTable::put(TunedEntry entry) {
  const auto same_call = [&](const TunedEntry& other) {
    return other.layer.key == entry.layer.key && other.tokens == entry.tokens && other.threads == entry.threads &&
           other.activations == entry.activations;
  };
  const auto it = std::find_if(entries.begin(), entries.end(), same_call);
  if (it == entries.end()) {
    entries.push_back(std::move(entry));
  } else {
    *it = std::move(entry);
  }
}

std::optional<TunedTable::Match> TunedTable::find(const MoeLayerTraits& layer, int tokens, int threads,
                                                  const std::string& activations) const {
  const TunedEntry* best = nullptr;
  double least = 0;
  for (const TunedEntry& entry : entries) {
    if (entry.threads != threads || entry.activations != activations) continue;
    if ((entry.layer.codebooks & layer.codebooks) != layer.codebooks) continue;
    const bool same_layer = entry.layer.key == layer.key;
    if (same_layer && entry.tokens == tokens) return Match{&entry, "exact"};
    // One token is a case of its own: no group has more than one row.
    if ((entry.tokens == 1) != (tokens == 1) || (entry.layer.experts == 0) != (layer.experts == 0)) continue;
    const double tokens_apart = ratio(entry.tokens, tokens);
    const double layers_apart = same_layer ? 1 : ratio(work_of(entry.layer), work_of(layer));
    if (tokens_apart > kNearTokens || layers_apart > kNearLayer) continue;
    // Another layer counts as farther than any other number of tokens.
    const double distance = std::log2(tokens_apart) + (same_layer ? 0 : 2 + std::log2(layers_apart));
    if (best == nullptr || distance < least) {
      best = &entry;
      least = distance;
    }
  }
  if (best == nullptr) return std::nullopt;
  return Match{best, best->layer.key == layer.key ? "nearest tokens" : "nearest layer"};
}

void TunedTable::save(const fs::path& path) const {
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  static std::atomic<unsigned> drafts{0};  // threads of this process have their own, too
  const fs::path draft = path.string() + fmt::format(".{}.{}.tmp", ::getpid(), drafts++);
  {
    std::ofstream file(draft, std::ios::binary | std::ios::trunc);
    file << to_json() << '\n';
    file.close();
    if (!file) {
      fs::remove(draft, error);
      throw Error(ErrorKind::kResource,
                  fmt::format("cannot write {}: is there room, and may you write there?", path.string()));
    }
  }
  fs::rename(draft, path, error);
  if (error) {
    const std::string what = error.message();
    fs::remove(draft, error);
    throw Error(ErrorKind::kResource, fmt::format("cannot replace {}: {}", path.string(), what));
  }
}

TunedTable TunedTable::load(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file && file.peek() == std::ifstream::traits_type::eof() && !file.bad()) {
    throw Error(ErrorKind::kBadInput, fmt::format("{}: the file is empty", path.string()));
  }
  if (!file || !(text << file.rdbuf())) {
    throw Error(ErrorKind::kResource, fmt::format("cannot read {}", path.string()));
  }
  return from_json(text.str(), path.string());
}

std::optional<TunedTable> TunedTable::load_if_usable(const fs::path& path, std::string& why) {
  why.clear();
  std::error_code error;
  if (path.empty() || !fs::exists(path, error)) return std::nullopt;
  try {
    TunedTable table = load(path);
    const DeviceStamp here = this_device_stamp();
    const auto differs = [&](const char* what, const std::string& theirs, const std::string& ours) {
      why = one_line(fmt::format("{} is not used: it was made for {} '{}', this is '{}'; run `fairway autotune`",
                                 path.string(), what, theirs, ours));
      return std::nullopt;
    };
    if (table.device.device_name != here.device_name) {
      return differs("device", table.device.device_name, here.device_name);
    }
    if (table.device.device_family != here.device_family) {  // the same processor with less switched on
      return differs("device family", table.device.device_family, here.device_family);
    }
    if (table.device.microcode != here.microcode) {
      return differs("microcode", table.device.microcode, here.microcode);
    }
    if (table.device.registry_hash != here.registry_hash) {
      return differs("the kernels of registry", table.device.registry_hash, here.registry_hash);
    }
    return table;
  } catch (const Error& e) {
    why = one_line(fmt::format("{} is not used: {}", path.string(), e.what()));
    return std::nullopt;
  }
}

fs::path default_table_path() {
  if (const char* chosen = std::getenv("FAIRWAY_AUTOTUNE"); chosen != nullptr && *chosen != '\0') return chosen;
  const std::string name = fmt::format("autotune_mixed_bpw_{}.json", this_device().family);
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return fs::path(cache) / "fairway" / name;
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return fs::path(home) / ".cache" / "fairway" / name;
  }
  return {};
}

}  // namespace fairway::select
