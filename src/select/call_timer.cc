// Routing, grouping and the clock around one kernel call.
#include "select/call_timer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "backend/cpu/features.h"
#include "fairway/error.h"

namespace fairway::select {
namespace {

constexpr int kMostWalks = 256;

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

std::int64_t cold_bytes() {
  return backend::cpu_info().l3_bytes + (std::int64_t{64} << 20);
}

CallTimer::CallTimer(std::span<const TuneLayer> layers, int tokens, kernels::KernelContext& context, std::uint64_t seed)
    : layers_(layers), tokens_(tokens), context_(context), random_(seed) {
  check(layers, tokens);
  const auto m = static_cast<std::size_t>(tokens);
  const auto hidden = static_cast<std::size_t>(traits().hidden);
  for (const TuneLayer& layer : layers) {
    for (const auto* list : {layer.experts, layer.always_on}) {
      for (const kernels::ExpertWeights& expert : *list) layers_bytes_ += coded_bytes(expert);
    }
    if (!layer.inputs.empty() || !normal_.empty()) continue;
    normal_.resize(m * hidden);
    std::normal_distribution<float> normal;
    for (float& value : normal_) value = normal(random_);
  }
  y_.resize(m * static_cast<std::size_t>(traits().top_k + traits().always_on) * hidden);
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

// Groups in the order in which the engine calls. Tokens beyond the layer's inputs use them again from the first.
std::int64_t CallTimer::draw_call(const TuneLayer& layer, Call& call) {
  const auto top_k = static_cast<std::size_t>(traits().top_k), m = static_cast<std::size_t>(tokens_);
  ids_.resize(m * top_k);
  for (std::size_t begin = 0; begin < ids_.size(); begin += top_k) {
    draw_experts(layer, std::span(ids_).subspan(begin, top_k));
  }
  if (traits().experts > 0) kernels::group_tokens(ids_.data(), tokens_, traits().top_k, traits().experts, call.routed);
  const std::vector<float>& inputs = layer.inputs.empty() ? normal_ : layer.inputs;
  call.x = inputs.data();
  const auto rows = static_cast<std::int32_t>(inputs.size() / static_cast<std::size_t>(traits().hidden));
  for (std::int32_t& row : call.routed.rows) row %= rows;
  call.all_rows.resize(m);
  for (std::int32_t row = 0; row < tokens_; ++row) call.all_rows[static_cast<std::size_t>(row)] = row % rows;

  std::int64_t bytes = 0;
  call.groups.clear();
  const std::vector<std::int32_t>& offsets = call.routed.offsets;
  for (std::size_t e = 0; e < layer.experts->size(); ++e) {
    if (offsets[e] == offsets[e + 1]) continue;
    const kernels::ExpertWeights& expert = (*layer.experts)[e];
    call.groups.push_back({&expert, call.routed.rows.data() + offsets[e], offsets[e + 1] - offsets[e], offsets[e]});
    bytes += coded_bytes(expert);
  }
  auto slots = static_cast<std::int64_t>(ids_.size());
  for (const kernels::ExpertWeights& expert : *layer.always_on) {
    call.groups.push_back({&expert, call.all_rows.data(), tokens_, slots});
    slots += tokens_;
    bytes += coded_bytes(expert);
  }
  std::sort(call.groups.begin(), call.groups.end(), [](const kernels::ExpertGroup& a, const kernels::ExpertGroup& b) {
    const auto bits_a = a.expert->bits(), bits_b = b.expert->bits();
    return bits_a != bits_b ? bits_a < bits_b : a.slot_begin < b.slot_begin;
  });
  return bytes;
}

void CallTimer::route() {
  const std::int64_t enough = std::min(cold_bytes(), layers_bytes_);
  std::int64_t bytes = 0;
  std::size_t count = 0;
  while (bytes < enough && count < kMostCalls) {
    if (count == calls_.size()) calls_.emplace_back();
    bytes += draw_call(layers_[next_layer_], calls_[count++]);
    next_layer_ = (next_layer_ + 1) % layers_.size();
  }
  calls_.resize(count);
  bytes_touched_ = bytes / static_cast<std::int64_t>(count);
}

void CallTimer::run(const MoeCandidate& candidate, const Call& call) {
  const int hidden = traits().hidden;
  candidate.row->fn({call.x, hidden, hidden, call.groups, y_.data()}, candidate.tile, context_);
}

double CallTimer::time(const MoeCandidate& candidate, double least_seconds) {
  const auto start = std::chrono::steady_clock::now();
  double passed = 0;
  int walks = 0;
  do {
    for (const Call& call : calls_) run(candidate, call);
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  } while (++walks < kMostWalks && passed < least_seconds);
  return passed / (walks * calls());
}

}  // namespace fairway::select
