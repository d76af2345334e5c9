// What a selector has chosen so far, for people who watch a running program.
#pragma once

#include <string>

#include "select/kernel_selector.h"

namespace fairway::select {

// One object: device, threads, learning, table, and per kind of call the candidates with how often each was chosen, the
// samples that the learner holds and their mean. Shapes in numbers, times in milliseconds.
std::string telemetry_json(const KernelSelector& selector);

// The same in the Prometheus text format: counters fairway_moe_calls_total, gauges
// fairway_moe_latency_seconds, both with labels hidden, mix, tokens and kernel; with the first three, gauge
// fairway_selection_exploration_rate and counter fairway_selection_switches_total of sites that learn.
std::string telemetry_prometheus(const KernelSelector& selector);

}  // namespace fairway::select
