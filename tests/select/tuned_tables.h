// A tuned table of this machine with something in every field.
#pragma once

#include <string>
#include <vector>

#include "select/machines.h"
#include "select/tuned_table.h"

namespace fairway::test {

inline select::KernelConfig config(const std::string& name) {
  return select::config_of(select::parse_candidate(name));
}

// Of an AVX-512 machine's kernels: tables are read wherever their rows exist.
inline select::TunedEntry tuned_entry(int tokens, const std::string& best, const select::MoeLayerTraits& of = layer(),
                                      int threads = 2) {
  const std::string other =
      tokens == 1 ? "cpu_avx512/moe_trellis_swiglu_decode" : "cpu_avx512/moe_trellis_swiglu_grouped";
  select::TunedEntry entry;
  entry.tokens = tokens;
  entry.threads = threads;
  entry.layer = of;
  entry.activations = "int8";
  entry.best = config(best);
  entry.fallback = config(other);
  entry.measured = {{config(best), 0.8125, {0.8, 0.8125, 0.9}}, {config(other), 1.0, {0.98, 1.0, 1.1}}};
  return entry;
}

inline select::TunedTable tuned_table(std::vector<select::TunedEntry> entries) {
  select::TunedTable table;
  table.device = select::this_device_stamp();
  table.revision = "0123456789ab";
  table.date = "2026-11-21";
  table.adaptation_enabled = false;
  table.adaptation_history_len = 77;
  table.benchmark_count = 12;
  for (auto& entry : entries) table.put(std::move(entry));
  return table;
}

inline constexpr char kLargeBatch[] = "cpu_avx512/moe_trellis_swiglu_large_batch/m64n64w1";
inline constexpr char kPrefill4[] = "cpu_avx512/moe_trellis_swiglu_prefill4";

}  // namespace fairway::test
