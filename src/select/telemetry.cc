// Counters of sites, serialised by nlohmann-json and prometheus-cpp.
#include "select/telemetry.h"

#include <fmt/format.h>
#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "select/thresholds.h"

namespace fairway::select {
namespace {

using Json = nlohmann::ordered_json;
using Labels = std::vector<prometheus::ClientMetric::Label>;

double mean_ms(const KernelSelector::Site& site, int index) {
  if (site.learner == nullptr) return 0;
  const std::vector<double> samples = site.learner->samples(index);
  if (samples.empty()) return 0;
  return std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
}

Json site_json(const KernelSelector::Site& site) {
  Json candidates = Json::array();
  for (std::size_t i = 0; i < site.candidates.size(); ++i) {
    Json one = {{"kernel", site.candidates[i].name()}, {"calls", site.chosen[i].load(std::memory_order_relaxed)}};
    if (site.learner != nullptr) {
      one["samples"] = site.learner->samples(static_cast<int>(i)).size();
      one["mean_ms"] = mean_ms(site, static_cast<int>(i));
    }
    candidates.push_back(std::move(one));
  }
  const int current = site.learner == nullptr ? site.preferred : site.learner->current();
  Json json = {{"tokens", site.tokens},
               {"hidden", site.traits.hidden},
               {"intermediate", site.traits.intermediate},
               {"experts", site.traits.experts},
               {"top_k", site.traits.top_k},
               {"mix", site.traits.mix_text()},
               {"preferred", site.candidates[static_cast<std::size_t>(site.preferred)].name()},
               {"why", site.why},
               {"current", site.candidates[static_cast<std::size_t>(current)].name()}};
  if (site.learner != nullptr) {
    json["exploration_rate"] = site.learner->exploration_rate();
    json["switches"] = site.learner->switches();
  }
  json["candidates"] = std::move(candidates);
  return json;
}

prometheus::MetricFamily family(const char* name, const char* help, prometheus::MetricType type) {
  return {name, help, type, {}};
}

void add(prometheus::MetricFamily& to, Labels labels, double value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  if (to.type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  to.metric.push_back(std::move(metric));
}

}  // namespace

std::string telemetry_json(const KernelSelector& selector) {
  Json sites = Json::array();
  for (const KernelSelector::Site* site : selector.sites()) sites.push_back(site_json(*site));
  const Json json = {{"device", this_device_name()},
                     {"device_family", this_device().family},
                     {"threads", selector.options().threads},
                     {"learns", selector.learns()},
                     {"tuned_entries", selector.table().entries.size()},
                     {"sites", std::move(sites)}};
  return json.dump(1);
}

std::string telemetry_prometheus(const KernelSelector& selector) {
  using prometheus::MetricType;
  auto calls = family("fairway_moe_calls_total", "MoE calls by kernel", MetricType::Counter);
  auto latency = family("fairway_moe_latency_seconds", "Mean time of recent MoE calls by kernel", MetricType::Gauge);
  auto exploration = family("fairway_selection_exploration_rate", "Share of calls that explore", MetricType::Gauge);
  auto switches = family("fairway_selection_switches_total", "Changes of the current kernel", MetricType::Counter);
  for (const KernelSelector::Site* site : selector.sites()) {
    const Labels call{{"hidden", std::to_string(site->traits.hidden)},
                      {"mix", site->traits.mix_text()},
                      {"tokens", std::to_string(site->tokens)}};
    for (std::size_t i = 0; i < site->candidates.size(); ++i) {
      Labels labels = call;
      labels.push_back({"kernel", site->candidates[i].name()});
      add(calls, labels, static_cast<double>(site->chosen[i].load(std::memory_order_relaxed)));
      if (const double mean = mean_ms(*site, static_cast<int>(i)); mean > 0) add(latency, labels, mean * 1e-3);
    }
    if (site->learner == nullptr) continue;
    add(exploration, call, site->learner->exploration_rate());
    add(switches, call, static_cast<double>(site->learner->switches()));
  }
  return prometheus::TextSerializer().Serialize({calls, latency, exploration, switches});
}

}  // namespace fairway::select
