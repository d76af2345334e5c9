// Routing, grouping and the clock around one kernel call.
#include "select/call_timer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "codec/packing.h"
#include "fairway/error.h"

namespace fairway::select {
namespace {

constexpr int kMostRepeats = 256;

void check(std::span<const TuneLayer> layers, int tokens) {
  if (layers.empty() || tokens < 1) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{} layers and {} tokens to time, expected one or more of each", layers.size(), tokens));
  }
  for (const TuneLayer& layer : layers) {
    const auto trellis = [](const kernels::ExpertWeights& expert) { return expert.is_trellis(); };
    if (layer.traits.key != layers.front().traits.key || layer.traits.key == 0 ||
        !std::all_of(layer.experts->begin(), layer.experts->end(), trellis) ||
        !std::all_of(layer.always_on->begin(), layer.always_on->end(), trellis)) {
      throw Error(ErrorKind::kUsage, "the layers to time differ in their traits, or have experts that are not trellis");
    }
    const auto hidden = static_cast<std::size_t>(layer.traits.hidden);
    if (layer.inputs.size() % hidden != 0) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("{} input values for a hidden size of {}", layer.inputs.size(), hidden));
    }
    if (!layer.expert_shares.empty() && layer.expert_shares.size() != layer.experts->size()) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("{} shares for {} experts", layer.expert_shares.size(), layer.experts->size()));
    }
  }
}

}  // namespace

std::int64_t coded_bytes(const kernels::ExpertWeights& expert) {
  std::int64_t bytes = 0;
  for (const kernels::LinearWeights* weights : {&expert.gate, &expert.up, &expert.down}) {
    const kernels::TrellisMatrix& matrix = weights->trellis();
    bytes += std::int64_t{matrix.in} * matrix.out * matrix.bits / 8;
  }
  return bytes;
}

CallTimer::CallTimer(std::span<const TuneLayer> layers, int tokens, kernels::KernelContext& context, std::uint64_t seed)
    : layers_(layers), tokens_(tokens), context_(context), random_(seed) {
  check(layers, tokens);
  const auto m = static_cast<std::size_t>(tokens);
  const auto hidden = static_cast<std::size_t>(traits().hidden);
  x_.resize(m * hidden);
  const std::vector<float>& inputs = layers.front().inputs;
  if (inputs.empty()) {
    std::normal_distribution<float> normal;
    for (float& value : x_) value = normal(random_);
  } else {
    const std::size_t rows = inputs.size() / hidden;
    for (std::size_t r = 0; r < m; ++r) {
      std::copy_n(inputs.begin() + static_cast<std::ptrdiff_t>(r % rows * hidden), hidden,
                  x_.begin() + static_cast<std::ptrdiff_t>(r * hidden));
    }
  }
  y_.resize(m * static_cast<std::size_t>(traits().top_k + traits().always_on) * hidden);
  all_rows_.resize(m);
  std::iota(all_rows_.begin(), all_rows_.end(), 0);
  route();
}

// Distinct experts, each as likely as its share says: the k largest of u^(1 / share) (Efraimidis and Spirakis, 2006).
void CallTimer::draw_experts(const TuneLayer& layer, std::span<std::int32_t> ids) {
  const std::size_t experts = layer.experts->size();
  keys_.resize(experts);
  std::uniform_real_distribution<double> uniform;
  for (std::size_t e = 0; e < experts; ++e) {
    const double share = layer.expert_shares.empty() ? 1 : std::max(layer.expert_shares[e], 1e-9);
    keys_[e] = std::log(std::max(uniform(random_), 1e-300)) / share;
  }
  for (std::int32_t& id : ids) {
    id = static_cast<std::int32_t>(std::max_element(keys_.begin(), keys_.end()) - keys_.begin());
    keys_[static_cast<std::size_t>(id)] = -INFINITY;
  }
}

void CallTimer::route() {
  const TuneLayer& layer = layers_[next_layer_];
  const auto top_k = static_cast<std::size_t>(traits().top_k);
  ids_.resize(static_cast<std::size_t>(tokens_) * top_k);
  for (std::size_t begin = 0; begin < ids_.size(); begin += top_k) {
    draw_experts(layer, std::span(ids_).subspan(begin, top_k));
  }
  bytes_touched_ = 0;
  std::vector<bool> touched(layer.experts->size());
  for (const std::int32_t id : ids_) touched[static_cast<std::size_t>(id)] = true;
  for (std::size_t e = 0; e < touched.size(); ++e) bytes_touched_ += touched[e] ? coded_bytes((*layer.experts)[e]) : 0;
  for (const kernels::ExpertWeights& expert : *layer.always_on) bytes_touched_ += coded_bytes(expert);
  if (traits().experts > 0) kernels::group_tokens(ids_.data(), tokens_, traits().top_k, traits().experts, routed_);
}

double CallTimer::run_once(const MoeCandidate& candidate) {
  const TuneLayer& layer = layers_[next_layer_];
  next_layer_ = (next_layer_ + 1) % layers_.size();
  groups_.clear();
  std::int64_t slots = 0;
  for (int e = 0; e < traits().experts; ++e) {
    const int begin = routed_.offsets[static_cast<std::size_t>(e)],
              end = routed_.offsets[static_cast<std::size_t>(e) + 1];
    if (begin == end) continue;
    groups_.push_back(
        {&(*layer.experts)[static_cast<std::size_t>(e)], routed_.rows.data() + begin, end - begin, begin});
  }
  slots = static_cast<std::int64_t>(ids_.size());
  for (const kernels::ExpertWeights& expert : *layer.always_on) {
    groups_.push_back({&expert, all_rows_.data(), tokens_, slots});
    slots += tokens_;
  }
  // The order in which the engine calls.
  std::sort(groups_.begin(), groups_.end(), [](const kernels::ExpertGroup& a, const kernels::ExpertGroup& b) {
    const auto bits_a = a.expert->bits(), bits_b = b.expert->bits();
    return bits_a != bits_b ? bits_a < bits_b : a.slot_begin < b.slot_begin;
  });
  const int hidden = traits().hidden;
  const auto start = std::chrono::steady_clock::now();
  candidate.row->fn({x_.data(), hidden, hidden, groups_, y_.data()}, candidate.tile, context_);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double CallTimer::time(const MoeCandidate& candidate, double least_seconds) {
  double total = run_once(candidate);
  int calls = 1;
  for (; calls < kMostRepeats && total < least_seconds; ++calls) total += run_once(candidate);
  return total / calls;
}

}  // namespace fairway::select
