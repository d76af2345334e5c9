// The result of tuning: for each kind of call the fastest kernel that was measured, with the measurements, as JSON.
//
// The file is a superset of the founding documents' format. "lookup_table" is theirs: tokens -> hidden size -> widths
// -> kernel. "entries" holds what it was made from, and is what lookups here use.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "select/candidates.h"
#include "select/moe_call.h"

namespace fairway::select {

// What the documents call a configuration. kernel_name is a row id here; families and aliases are read too.
struct KernelConfig {
  std::string kernel_name;
  int tile_size_m = 0, tile_size_n = 0;
  int simdgroups = 0;  // workers per tile
  bool use_fp32_acc = false;
  std::string kernel_variant = "base";  // "decode", "prefill", "base", "large_batch", "grouped"
  friend bool operator==(const KernelConfig&, const KernelConfig&) = default;
};
KernelConfig config_of(const MoeCandidate& candidate);
MoeCandidate candidate_of(const KernelConfig& config);  // Error(kUsage) if there is no such row or tile

struct MeasuredKernel {
  KernelConfig config;
  double median_ms = 0;
  std::vector<double> samples_ms;
};

struct TunedEntry {
  int tokens = 0, threads = 0;
  MoeLayerTraits layer;
  std::string activations;  // of the kernels compared: "int8", "fp16", "fp32"
  KernelConfig best;
  std::vector<MeasuredKernel> measured;  // fastest first; the default among them
  KernelConfig fallback;                 // the default that had to be beaten
};

struct DeviceStamp {
  std::string device_name, device_family;  // "Intel(R) Xeon(R) Processor", "cpu_avx512"
  std::string microcode;                   // "" if the system does not say
  int processors = 0;
  std::string registry_hash;  // of all rows of moe_swiglu that can be selected, with their tiles
  friend bool operator==(const DeviceStamp&, const DeviceStamp&) = default;
};
DeviceStamp this_device_stamp();

// A line of the documents' "lookup_table".
struct LookupEntry {
  int tokens, hidden;
  std::vector<int> widths;  // distinct, ascending
  KernelConfig config;
};

class TunedTable {
 public:
  static constexpr int kSchema = 1;

  DeviceStamp device;
  std::string revision, date;
  std::vector<TunedEntry> entries;
  bool adaptation_enabled = true;
  int adaptation_history_len = 100;
  int benchmark_count = 0;  // kernels timed, over all entries
  // Of a file in the documents' format, which has no entries. Its kernels may be of devices that have no rows here.
  std::vector<LookupEntry> lookup;
  std::map<int, int> tile_size_mapping, simdgroup_mapping;  // by width

  // The documents' view: `lookup`, and a line for every entry.
  std::vector<LookupEntry> lookup_entries() const;

  // Replaces the entry for the same call, or adds it.
  void put(TunedEntry entry);

  struct Match {
    const TunedEntry* entry;
    const char* how;  // "exact", "nearest tokens", "nearest layer"
  };
  // Exact call; else the same layer with the nearest tokens (by ratio, at most 2); else the nearest layer of the same
  // activations with tokens as near. Empty if nothing is near. Thread counts must agree.
  std::optional<Match> find(const MoeLayerTraits& layer, int tokens, int threads, const std::string& activations) const;

  std::string to_json() const;
  // Error(kBadInput) names `source` and what is wrong. Unknown keys are ignored, known ones checked. A text
  // without "schema_version" is read as the documents' format.
  static TunedTable from_json(const std::string& text, const std::string& source);

  // Writes beside the target and renames over it, so that a reader sees the old file or the new one, and two writers
  // cannot mix. Error(kResource).
  void save(const std::filesystem::path& path) const;
  static TunedTable load(const std::filesystem::path& path);  // Error(kResource) if it cannot be read

  // Empty if the file is missing, and, with one line for the user in `why`, if it is damaged, of another schema, of
  // another device, family or microcode, or made for other rows.
  static std::optional<TunedTable> load_if_usable(const std::filesystem::path& path, std::string& why);
};

// $FAIRWAY_AUTOTUNE if set, else autotune_mixed_bpw_<family>.json in $XDG_CACHE_HOME/fairway or ~/.cache/fairway.
std::filesystem::path default_table_path();

}  // namespace fairway::select
