// Interleaved rounds of a benchmark, and the ceilings measured between its samples.
#include <fmt/core.h>

#include <cstddef>
#include <memory>

#include "backend/cpu/core_ceiling.h"
#include "backend/cpu/features.h"
#include "backend/cpu/thread_pool.h"
#include "cli/bench.h"
#include "cli/report.h"
#include "cli/signals.h"

namespace fairway::cli {
namespace {

// One sample of every cell, or false if the user interrupted it.
bool run_round(const BenchOptions& options, const std::vector<std::unique_ptr<backend::ThreadPool>>& pools,
               MachineCeiling& ceiling, const std::function<double(int, int)>& measure,
               const std::function<void(int, int)>& announce, std::vector<BenchCell>& cells) {
  auto cell = cells.begin();
  for (std::size_t t = 0; t < options.threads.size(); ++t) {
    const Ceilings ceilings = ceiling.measure(*pools[t]);
    for (const int batch : options.batch) {
      announce(options.threads[t], batch);
      cell->samples.push_back(measure(options.threads[t], batch));
      cell->ceilings.push_back(ceilings);
      if (cancel_requested()) return false;
      ++cell;
    }
  }
  return true;
}

void keep_samples(std::vector<BenchCell>& cells, std::size_t first, std::size_t last) {
  const auto keep = [&](auto& list) {
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(last), list.end());
    list.erase(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(first));
  };
  for (BenchCell& cell : cells) {
    keep(cell.samples);
    keep(cell.ceilings);
  }
}

}  // namespace

std::vector<BenchCell> run_rounds(const BenchOptions& options,
                                  const std::function<double(int threads, int batch)>& measure) {
  std::vector<BenchCell> cells;
  std::vector<std::unique_ptr<backend::ThreadPool>> pools;
  for (const int threads : options.threads) {
    pools.push_back(std::make_unique<backend::ThreadPool>(threads));
    for (const int batch : options.batch) cells.push_back({threads, batch, {}, {}});
  }
  MachineCeiling ceiling(std::int64_t{options.ceiling_mib} << 20);
  Progress progress("bench " + options.kind);
  const int rounds = options.warmup + options.runs;
  int complete = 0;
  const auto announce = [&](int threads, int batch) {
    progress.update(static_cast<double>(complete) / rounds,
                    fmt::format("round {}/{}, {} threads, batch {}", complete + 1, rounds, threads, batch));
  };
  while (complete < rounds && run_round(options, pools, ceiling, measure, announce, cells)) ++complete;
  if (complete <= options.warmup) throw_if_cancelled("benchmarking, before a round was complete");
  keep_samples(cells, static_cast<std::size_t>(options.warmup), static_cast<std::size_t>(complete));
  return cells;
}

std::vector<double> BenchCell::ceiling(double Ceilings::*field) const {
  std::vector<double> values;
  values.reserve(ceilings.size());
  for (const Ceilings& measured : ceilings) values.push_back(measured.*field);
  return values;
}

void add_ceilings(const BenchCell& cell, double gb_per_second, Json& json) {
  const std::vector<double> memory = cell.ceiling(&Ceilings::gb_per_second);
  json["ceiling_gb_per_second"] = spread_json(memory);
  json["share_of_ceiling"] = gb_per_second / median(memory);
  json["ceiling_gmac_per_second"] = spread_json(cell.ceiling(&Ceilings::gmac_per_second));
  json["int8_instruction"] = backend::int8_loop(backend::cpu_info().features).instruction;
  json["core_ghz"] = spread_json(cell.ceiling(&Ceilings::core_ghz));
}

}  // namespace fairway::cli
