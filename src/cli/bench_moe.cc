// fairway bench moe: the expert block of one layer, on layers taken in turn so that weights come from memory.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <random>

#include "backend/cpu/features.h"
#include "cli/bench.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "model/model.h"
#include "moe/layer.h"

namespace fairway::cli {
namespace {

constexpr int kMinEvaluations = 5;  // per combination and round

struct Workers {
  Workers(int threads, const select::Policy& their_policy) : pool(threads), policy(their_policy) {}
  backend::ThreadPool pool;
  backend::Workspace workspace;
  const select::Policy& policy;
};

struct Stored {
  const std::uint8_t* data;
  std::int64_t bytes;
};

Stored stored(const kernels::LinearWeights& linear) {
  if (linear.is_trellis()) {
    const kernels::TrellisMatrix& trellis = linear.trellis();
    return {trellis.words, std::int64_t{trellis.in} * trellis.out * trellis.bits / 8};
  }
  const kernels::DenseMatrix& dense = linear.dense();
  return {dense.data, std::int64_t{dense.in} * dense.out * (dense.type == kernels::DenseType::kF32 ? 4 : 2)};
}

std::int64_t linear_bytes(const kernels::LinearWeights& linear) {
  if (!linear.is_trellis()) return stored(linear).bytes;
  return stored(linear).bytes + 4 * (std::int64_t{linear.trellis().in} + linear.trellis().out);  // scales, kept as fp32
}

std::int64_t expert_bytes(const kernels::ExpertWeights& expert) {
  return linear_bytes(expert.gate) + linear_bytes(expert.up) + linear_bytes(expert.down);
}

std::int64_t expert_weights(const kernels::ExpertWeights& expert) {
  return std::int64_t{expert.gate.in} * expert.gate.out + std::int64_t{expert.up.in} * expert.up.out +
         std::int64_t{expert.down.in} * expert.down.out;
}

// Reads a byte of every page, so that no sample pays for mapping the file into this process.
void touch_pages(const kernels::ExpertWeights& expert) {
  constexpr std::int64_t kPageBytes = 4096;
  for (const kernels::LinearWeights* linear : {&expert.gate, &expert.up, &expert.down}) {
    const Stored part = stored(*linear);
    const volatile std::uint8_t* data = part.data;
    for (std::int64_t i = 0; i < part.bytes; i += kPageBytes) static_cast<void>(data[i]);
  }
}

void touch_pages(const model::Model& model) {
  for (int i = 0; i < model.moe_layer_count(); ++i) {
    throw_if_cancelled("reading the experts");
    for (const auto& expert : model.moe_layer(i).experts) touch_pages(expert);
    for (const auto& expert : model.moe_layer(i).always_on) touch_pages(expert);
  }
}

// What one combination of threads and batch accumulates over all counted evaluations.
struct Work {
  double bytes = 0, weights = 0, macs = 0, seconds = 0, experts = 0;
  std::int64_t evaluations = 0;
  moe::Counters counters;
};

class MoeBench {
 public:
  MoeBench(const BenchOptions& options, const model::Model& model, const StartPolicies& policies)
      : options_(options), model_(model) {
    const int hidden = model.config().hidden_size;
    const int most = *std::max_element(options.batch.begin(), options.batch.end());
    x_.resize(static_cast<std::size_t>(most) * hidden);
    y_.resize(x_.size());
    std::normal_distribution<float> normal;
    for (float& value : x_) value = normal(random_);
    for (const int threads : options.threads) workers_.try_emplace(threads, threads, policies.at(threads));
  }

  // Median milliseconds per layer over one round's evaluations.
  double measure(int threads, int batch) {
    Work& work = work_[{threads, batch}];
    std::vector<double> milliseconds;
    double total = 0;
    while (milliseconds.size() < kMinEvaluations || total < options_.cell_seconds) {
      const double seconds = evaluate(workers_.at(threads), batch, work);
      milliseconds.push_back(1e3 * seconds);
      total += seconds;
      if (cancel_requested()) break;
    }
    return median(milliseconds);
  }

  const Work& work(const BenchCell& cell) const { return work_.at({cell.threads, cell.batch}); }

 private:
  // Every token gets top_k distinct experts, all sets alike likely: a partial Fisher-Yates shuffle per token.
  void assign_uniform(const moe::MoeLayerWeights& layer, int m) {
    const int experts = layer.route.experts, top_k = layer.route.top_k;
    order_.resize(static_cast<std::size_t>(experts));
    scratch_.ids.resize(static_cast<std::size_t>(m) * top_k);
    scratch_.weights.assign(scratch_.ids.size(), layer.route.scaling_factor / static_cast<float>(top_k));
    for (int e = 0; e < experts; ++e) order_[static_cast<std::size_t>(e)] = e;
    for (std::size_t slot = 0; slot < scratch_.ids.size(); ++slot) {
      const std::size_t k = slot % static_cast<std::size_t>(top_k);
      std::swap(order_[k], order_[k + random_() % (order_.size() - k)]);
      scratch_.ids[slot] = order_[k];
    }
  }

  double evaluate(Workers& workers, int batch, Work& work) {
    const moe::MoeLayerWeights& layer = model_.moe_layer(next_layer_);
    next_layer_ = (next_layer_ + 1) % model_.moe_layer_count();
    const int hidden = model_.config().hidden_size;
    kernels::KernelContext context{workers.pool, workers.workspace};
    const bool uniform = options_.routing == "uniform";
    if (uniform) assign_uniform(layer, batch);
    std::fill(y_.begin(), y_.end(), 0.0f);
    const auto forward = uniform ? moe::moe_forward_routed : moe::moe_forward;
    const auto start = std::chrono::steady_clock::now();
    forward(layer, x_.data(), batch, hidden, y_.data(), workers.policy, context, scratch_, work.counters);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    account(layer, batch, seconds, work);
    return seconds;
  }

  // Each touched expert counts once per call, however many tokens it serves.
  void account(const moe::MoeLayerWeights& layer, int batch, double seconds, Work& work) {
    std::vector<std::int32_t> touched = scratch_.ids;
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    const auto add = [&](const kernels::ExpertWeights& expert) {
      work.bytes += static_cast<double>(expert_bytes(expert));
      work.weights += static_cast<double>(expert_weights(expert));
      work.experts += 1;
    };
    for (const std::int32_t id : touched) add(layer.experts[static_cast<std::size_t>(id)]);
    for (const kernels::ExpertWeights& expert : layer.always_on) {
      add(expert);
      work.macs += static_cast<double>(expert_weights(expert)) * batch;
    }
    work.macs += static_cast<double>(expert_weights(layer.experts.front())) * static_cast<double>(scratch_.ids.size());
    work.seconds += seconds;
    ++work.evaluations;
  }

  const BenchOptions& options_;
  const model::Model& model_;
  std::mt19937_64 random_{1};
  std::vector<float> x_, y_;
  std::vector<std::int32_t> order_;
  std::map<int, Workers> workers_;
  std::map<std::pair<int, int>, Work> work_;
  moe::MoeScratch scratch_;
  int next_layer_ = 0;
};

std::int64_t pool_bytes(const model::Model& model) {
  std::int64_t bytes = 0;
  for (int i = 0; i < model.moe_layer_count(); ++i) {
    for (const auto& expert : model.moe_layer(i).experts) bytes += expert_bytes(expert);
    for (const auto& expert : model.moe_layer(i).always_on) bytes += expert_bytes(expert);
  }
  return bytes;
}

Json cell_json(const BenchCell& cell, const Work& work) {
  const double calls = static_cast<double>(work.evaluations);
  const double seconds = median(cell.samples) / 1e3;  // the median round stands for the average call's work
  const double gb_per_second = work.bytes / calls / seconds / 1e9;
  const double gmac_per_second = work.macs / calls / seconds / 1e9;
  Json json = {{"threads", cell.threads},
               {"batch", cell.batch},
               {"ms_per_layer", spread_json(cell.samples)},
               {"evaluations", work.evaluations},
               {"experts_touched", work.experts / calls},
               {"weight_gb_per_second", gb_per_second},
               {"g_weights_per_second", work.weights / calls / seconds / 1e9},
               {"gmac_per_second", gmac_per_second}};
  add_ceilings(cell, gb_per_second, json);
  json["share_of_int8_ceiling"] = gmac_per_second / median(cell.ceiling(&Ceilings::gmac_per_second));
  json["kernels"] = kernels_json(work.counters);
  json["counters"] = counters_json(work.counters);
  return json;
}

std::string cell_text(const Json& cell) {
  const Json& time = cell["ms_per_layer"];
  return fmt::format("{:>7} {:>6} {:>10.3f} ({:.3f} - {:.3f}) {:>9.2f} {:>11.2f} {:>9.1f} {:>9.1f}% {:>7.1f}%\n",
                     cell["threads"].get<int>(), cell["batch"].get<int>(), time["median"].get<double>(),
                     time["min"].get<double>(), time["max"].get<double>(), cell["weight_gb_per_second"].get<double>(),
                     cell["g_weights_per_second"].get<double>(), cell["gmac_per_second"].get<double>(),
                     100 * cell["share_of_ceiling"].get<double>(), 100 * cell["share_of_int8_ceiling"].get<double>());
}

}  // namespace

Json bench_moe(const BenchOptions& options, std::string& text) {
  const StartPolicies policies(options.kernels, options.start, options.threads);  // wrong options before the load
  const model::Model model =
      model::Model::load(options.model, [](int, int) { throw_if_cancelled("loading the model"); });
  if (model.moe_layer_count() == 0) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: the model has no layer with routed experts", options.model));
  }
  touch_pages(model);
  MoeBench bench(options, model, policies);
  const auto cells = run_rounds(options, [&](int threads, int batch) { return bench.measure(threads, batch); });
  Json results = Json::array();
  text = "threads tokens   ms/layer (min - max)        GB/s  Gweights/s    GMAC/s  of memory  of int8\n";
  for (const BenchCell& cell : cells) {
    results.push_back(cell_json(cell, bench.work(cell)));
    text += cell_text(results.back());
  }
  Json about = model_json(model);
  const std::int64_t bytes = pool_bytes(model);
  about["moe_layers"] = model.moe_layer_count();
  about["expert_pool_bytes"] = bytes;
  about["expert_pool_exceeds_cache"] = bytes > 4 * backend::cpu_info().l3_bytes;
  if (bytes <= 4 * backend::cpu_info().l3_bytes) {
    fmt::print(stderr, "fairway: note: all experts together are {}; part of them may stay in the {} cache\n",
               human_bytes(static_cast<double>(bytes)), human_bytes(static_cast<double>(backend::cpu_info().l3_bytes)));
  }
  policies.print_explanations();
  Json document = bench_document(options, about, std::move(results));
  document["selection"] = policies.json();
  return document;
}

}  // namespace fairway::cli
