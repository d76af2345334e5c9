// Times the candidates for MoE calls and keeps the fastest: the founding documents' MixedBPWAutoTuner.
//
// Timing is round-robin: every candidate once per round, in turning order, so that a disturbance of the machine hits
// all of them. Medians decide. The default takes part and keeps its place unless another candidate is faster beyond
// doubt (verdict.h). Layers are used in turn; whether their weights come from memory or from the cache follows from
// their size and is stated in the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/common/context.h"
#include "select/call_timer.h"
#include "select/tuned_table.h"

namespace fairway::select {

struct BenchmarkResult {
  KernelConfig config;
  double latency_ms = 0;           // of a call, median with rounds levelled (verdict.h)
  double throughput_gbps = 0;      // coded weights read per second, 1e9 bytes; each touched expert once per call
  double memory_footprint_mb = 0;  // coded weights of the layer, 1e6 bytes
  double timestamp = 0;            // seconds since 1970
  std::vector<double> samples_ms;
};

struct TuneOptions {
  int warmup = 1;             // samples of the default that are thrown away
  int iterations = 15;        // samples per candidate at most
  double budget_seconds = 0;  // of everything; 0: no limit. No sample is begun later, but one round is always measured
  double slack = 0.25;        // candidates predicted to be slower than that are not timed
  Policy policy;
  const std::atomic<bool>* cancel = nullptr;  // checked between samples; what was measured by then is kept
  std::function<void(int done, int total, const std::string& what)> progress;
  std::function<double()> clock;  // seconds since any moment, for the budget; empty: the steady clock
};

// Thread-safe except for the benchmarks, which are meant to have the machine to themselves.
class MixedBPWAutoTuner {
 public:
  // device_name "": this machine. config_path: read now if it exists and fits, and where export_config writes by
  // default.
  explicit MixedBPWAutoTuner(std::string device_name = {}, std::filesystem::path config_path = {});
  ~MixedBPWAutoTuner();
  MixedBPWAutoTuner(MixedBPWAutoTuner&&) noexcept;
  MixedBPWAutoTuner& operator=(MixedBPWAutoTuner&&) noexcept;

  const std::string& device_name() const;
  const std::string& device_family() const;

  // All layers must have the same traits; they are called in turn. configs empty: the promising candidates. Results in
  // ascending latency; the entry is put into the table. Fewer calls than asked for if cancelled.
  std::vector<BenchmarkResult> benchmark_layers(std::span<const TuneLayer> layers, int batch_size,
                                                const std::vector<KernelConfig>& configs, const TuneOptions& options,
                                                kernels::KernelContext& context);

  // Every layer kind (layers of equal traits) with every batch size, round-robin over batch sizes too when a budget is
  // given, so that each gets its share. Returns the number of calls timed. False in `complete` if cancelled or out of
  // time before every batch size had one round.
  struct TuneReport {
    std::int64_t calls = 0;
    double seconds = 0;
    bool complete = true;
    std::vector<const TunedEntry*> entries;  // in table(), of this run
  };
  TuneReport tune(std::span<const TuneLayer> layers, const std::vector<int>& batch_sizes, const TuneOptions& options,
                  kernels::KernelContext& context);

  // Exact call, else nearest batch size, else nearest hidden size, else the default for the widths of this device
  // family; empty only with fallback_to_default false. bit_widths: distinct or not, any order. use_decode prefers a
  // decode kernel where the table has nothing and the batch is 1.
  std::optional<KernelConfig> select_kernel(int batch_size, int hidden_dim, std::vector<int> bit_widths,
                                            bool use_decode = false, bool fallback_to_default = true) const;

  // Latencies of kernels that the caller ran. adapt_selection answers with the fastest of the top_k most timed kernels
  // of the call once it has at least 5 samples and its interval lies below all others, else nothing.
  void record_latency(const std::string& kernel_name, int batch_size, double latency_ms, int hidden_dim = 0,
                      std::vector<int> bit_widths = {});
  std::optional<KernelConfig> adapt_selection(int batch_size, int hidden_dim, std::vector<int> bit_widths,
                                              int top_k = 3) const;
  void clear_adaptation_history();

  struct Statistics {
    int entries = 0, kernels_timed = 0, latencies_recorded = 0;
    double mean_gain = 0, best_gain = 0;  // of the chosen kernel over the default, as fractions of the default's time
    std::map<std::string, int> chosen;    // kernel -> entries
  };
  Statistics statistics() const;

  const TunedTable& table() const;
  // The JSON, which is also written to `path`, or to config_path, if there is one.
  std::string export_config(const std::filesystem::path& path = {}) const;
  static MixedBPWAutoTuner load_config(const std::filesystem::path& path);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway::select
