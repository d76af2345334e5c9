// Chains, sites, candidates and rounds.
#include "model/cuda/path_tuner.cuh"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fairway/error.h"
#include "model/path_contest.h"
#include "select/verdict.h"

namespace fairway::model {
namespace {

using kernels::CudaRow;
using kernels::cuda::LinearCall;
using kernels::cuda::LinearPath;
using kernels::cuda::MoeCall;
using kernels::cuda::MoeLayer;
using kernels::cuda::MoePath;

constexpr double kHopeless = 1.25;       // times what a call of the default takes, after one sample
constexpr double kSlackOfSample = 0.01;  // of a chain's time: what one sample may be wrong by
constexpr double kBehind = 0.003;        // of a chain's time: who is further behind after kFirstRounds leaves
constexpr std::size_t kFirstRounds = 3;
constexpr int kAloneRounds = 4;  // of a default without rivals
constexpr int kAttempts = 3;
constexpr std::size_t kFinalists = 3;        // beside the default
constexpr double kSampleMicroseconds = 800;  // short chains are replayed several times for a sample
constexpr int kMostReplays = 4;
constexpr int kMostTimes = 4;        // as many rounds while a path seems faster and is not so beyond doubt
constexpr int kMostDirectRows = 16;  // a path that decodes for each row is not tried beyond
// Contestants of a site. kRest: what is not of the calls, that is a decode step's chain without them. Of a prompt,
// whose rows grow alike and choose the same experts if something is left out, it is the calls alone.
constexpr std::size_t kRule = 0, kRest = 1, kFirstCandidate = 2;

template <class Call, class ShapeOf>
std::vector<std::vector<Call>> by_shape(const std::vector<Call>& calls, const ShapeOf& shape) {
  std::vector<std::vector<Call>> groups;
  for (const Call& call : calls) {
    const std::string name = shape(call);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return shape(g.front()) == name; });
    if (group == groups.end()) group = groups.insert(groups.end(), std::vector<Call>{});
    group->push_back(call);
  }
  return groups;
}

template <class Path, class Legal>
std::vector<const CudaRow*> legal_rows(Path first, int count, int rows, const Legal& legal) {
  std::vector<const CudaRow*> paths{&row_of(first)};
  for (int p = 0; p < count; ++p) {
    const CudaRow& row = row_of(static_cast<Path>(p));
    const bool slow = row.tile_rows == 1 && rows > kMostDirectRows;
    if (static_cast<Path>(p) != first && !slow && legal(static_cast<Path>(p))) paths.push_back(&row);
  }
  return paths;
}

std::string shape_of_experts(const std::pair<MoeLayer, MoeCall>& call) {
  return shape_of(call.first);
}
std::string shape_of_linear(const LinearCall& call) {
  return shape_of(call);
}

}  // namespace

PathTuner::PathTuner(DevicePass& pass, DevicePaths& usual, std::size_t model_layers, backend::CudaStream& stream,
                     const PathTuneOptions& options)
    : pass_(pass),
      usual_(usual),
      model_layers_(model_layers),
      stream_(stream),
      options_(options),
      begin_(Clock::now()) {}

// The chain with rules and choices alone, whatever table the model has.
PathTuner::Graph PathTuner::record(const Choices& choices, DeviceCalls* calls) {
  DevicePaths trial;
  trial.set_choices(choices);
  const struct Lent {
    DevicePass& pass;
    DevicePaths& usual;
    ~Lent() {
      pass.set_paths(&usual);
      pass.set_calls(nullptr);
    }
  } lent{pass_, usual_};
  pass_.set_paths(&trial);
  pass_.set_calls(calls);
  return std::make_shared<backend::CudaGraph>(stream_, [&] {
    const auto stream = static_cast<cudaStream_t>(stream_.handle());
    pass_.layers(rows_, stream);
    if (with_head_) pass_.head(0, rows_.rows, stream);
  });
}

// Of all calls of a layer, without the head.
std::vector<std::string> PathTuner::shapes_of_layer(int layer) {
  DeviceCalls calls;
  const std::span<const int> layers = std::exchange(rows_.layers, {&layer, 1});
  const bool with_head = std::exchange(with_head_, false);
  record({}, &calls);
  rows_.layers = layers;
  with_head_ = with_head;
  std::vector<std::string> shapes;
  for (const auto& call : calls.experts) shapes.push_back(shape_of_experts(call));
  for (const LinearCall& call : calls.linears) shapes.push_back(shape_of(call));
  return shapes;
}

void PathTuner::choose_layers() {
  std::vector<std::string> kinds;
  for (int l = 0; l < static_cast<int>(model_layers_); ++l) {
    std::string& kind = kinds.emplace_back();
    for (const std::string& shape : shapes_of_layer(l)) kind += shape + "\n";
  }
  layers_ = chain_layers(kinds, options_.layers);
}

std::vector<PathTuner::Site> PathTuner::sites_of(const DeviceCalls& calls) const {
  std::vector<Site> sites;
  for (const auto& group : by_shape(calls.experts, shape_of_experts)) {
    const auto& [layer, call] = group.front();
    const MoeLayer& first = layer;
    const MoePath rule = kernels::cuda::moe_default_path(layer, call.tokens);
    Site site{shape_of(layer), static_cast<int>(group.size()), {}, {}, false, {}};
    site.paths = legal_rows(rule, kernels::cuda::kMoePaths, call.tokens,
                            [&](MoePath path) { return kernels::cuda::moe_path_legal(first, path); });
    site.queue = [group = group, rule, workspace = pass_.moe_workspace()](cudaStream_t stream) {
      for (const auto& [l, c] : group) kernels::cuda::moe_swiglu(l, c, rule, workspace, stream);
    };
    sites.push_back(std::move(site));
  }
  for (const auto& group : by_shape(calls.linears, shape_of_linear)) {
    const LinearCall& call = group.front();
    const LinearPath rule = kernels::cuda::linear_default_path(call);
    Site site{shape_of(call), static_cast<int>(group.size()), {}, {}, false, {}};
    site.paths = legal_rows(rule, kernels::cuda::kLinearPaths, call.rows,
                            [&](LinearPath path) { return kernels::cuda::linear_path_legal(call, path); });
    site.queue = [group = group, rule, workspace = pass_.linear_workspace()](cudaStream_t stream) {
      for (const LinearCall& c : group) kernels::cuda::trellis_linear(c, rule, workspace, stream);
    };
    sites.push_back(std::move(site));
  }
  return sites;
}

// Calls of few layers, and those of the head, are measured in a shorter chain: what they take is a larger part of it.
void PathTuner::choose_chains(std::vector<Site>& sites) {
  std::vector<std::vector<std::string>> shapes;  // of the calls of each layer of the chain
  shapes.reserve(layers_.size());
  for (const int layer : layers_) shapes.push_back(shapes_of_layer(layer));
  for (Site& site : sites) {
    std::vector<bool> has;
    has.reserve(shapes.size());
    for (const auto& own : shapes) has.push_back(std::find(own.begin(), own.end(), site.shape) != own.end());
    const std::vector<std::size_t> places = focused_chain(has);
    for (const std::size_t place : places) site.layers.push_back(layers_[place]);
    site.with_head = with_head_ && (places.size() == layers_.size() || std::count(has.begin(), has.end(), true) == 0);
  }
}

void PathTuner::set_replays(Contestant& contestant) {
  const double replays = std::ceil(kSampleMicroseconds / std::max(1.0, warm_up(contestant)));
  replays_ = static_cast<int>(std::clamp(replays, 1.0, static_cast<double>(kMostReplays)));
}

void PathTuner::tune(const DevicePassRows& rows, bool with_head, std::size_t passes_left) {
  const double share = 1.0 / static_cast<double>(passes_left);
  const double left = std::max(0.0, options_.budget_seconds - seconds_used());
  const double end = seconds_used() + left * share, progress = (1 - done_) * share;
  if (left <= 0) {
    complete_ = false;
    return;
  }
  rows_ = rows;
  if (layers_.empty()) choose_layers();
  rows_.layers = layers_;
  with_head_ = with_head;
  DeviceCalls calls;
  Choices choices;
  const Graph rules = record(choices, &calls);
  std::vector<Site> sites = sites_of(calls);
  choose_chains(sites);
  const std::size_t first_entry = table_.entries.size();
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const double seconds = std::max(0.0, end - seconds_used()) / static_cast<double>(sites.size() - i);
    rows_.layers = sites[i].layers;
    with_head_ = sites[i].with_head;
    tune_site(sites[i], seconds, choices);
    done_ += progress / static_cast<double>(sites.size());
    if (options_.progress) options_.progress(done_);
  }
  rows_.layers = layers_;
  with_head_ = with_head;
  check_choices(rules, choices.empty() ? rules : record(choices), first_entry);
}

// One sample, after a replay that loads code and keeps the device busy while the one that counts is queued.
double PathTuner::warm_up(Contestant& contestant) {
  contestant.graph->replay(stream_);
  contestant.timer.start(stream_);
  contestant.graph->replay(stream_);
  contestant.timer.stop(stream_);
  return contestant.timer.microseconds();
}

// A sample of each contestant that is still in, starting with another one each time. All are queued before the first is
// read, so that the device never waits for the host; the replay ahead of them does not count.
void PathTuner::round(std::deque<Contestant>& contestants, std::size_t number) {
  const std::size_t count = contestants.size();
  contestants[kRule].graph->replay(stream_);
  for (std::size_t i = 0; i < count; ++i) {
    Contestant& one = contestants[(i + number) % count];
    if (!one.in) continue;
    one.timer.start(stream_);
    for (int replay = 0; replay < replays_; ++replay) one.graph->replay(stream_);
    one.timer.stop(stream_);
  }
  for (Contestant& one : contestants) {
    if (one.in) one.samples.push_back(one.timer.microseconds() / replays_);
  }
}

// Rounds until the default's samples and those of the rest agree; what did not agree is forgotten. The first round does
// not count: it comes after the host has recorded graphs, when the device has idled.
void PathTuner::quiet_rounds(std::deque<Contestant>& contestants, int count, double end) {
  std::vector<bool> in;
  in.reserve(contestants.size());
  for (const Contestant& one : contestants) in.push_back(one.in);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    for (std::size_t i = 0; i < contestants.size(); ++i) contestants[i].in = in[i];
    round(contestants, 0);
    for (Contestant& one : contestants) one.samples.clear();
    if (!rounds(contestants, count, end)) return;
    if (path_spread(contestants[kRule].samples) <= kQuietSpread &&
        path_spread(contestants[kRest].samples) <= kQuietSpread) {
      return;
    }
  }
}

// Of those who are left; false if the time was over before all of them. Who is far behind after the first ones leaves.
bool PathTuner::rounds(std::deque<Contestant>& contestants, int count, double end) {
  for (int r = 0; r < count; ++r) {
    if (seconds_used() >= end) return complete_ = false;
    round(contestants, static_cast<std::size_t>(r));
    if (contestants[kRule].samples.size() != kFirstRounds) continue;
    std::vector<std::pair<double, Contestant*>> order;
    const double slowest = (1 + kBehind) * select::median(contestants[kRule].samples);
    for (std::size_t i = kFirstCandidate; i < contestants.size(); ++i) {
      Contestant& one = contestants[i];
      if (one.in) order.emplace_back(select::median(one.samples), &one);
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < order.size(); ++i) order[i].second->in = i < kFinalists && order[i].first <= slowest;
  }
  return true;
}

// The default, the rest or the calls alone, and the candidates that one sample does not rule out.
void PathTuner::enter(std::deque<Contestant>& contestants, const Site& site, const Choices& choices, double end) {
  Choices trial = choices;
  trial[site.shape] = nullptr;
  Graph rest;
  if (rows_.one_sequence) {
    rest =
        std::make_shared<backend::CudaGraph>(stream_, [&] { site.queue(static_cast<cudaStream_t>(stream_.handle())); });
  } else {
    rest = record(trial);
  }
  contestants.emplace_back(nullptr, std::move(rest), stream_.device());
  const double rule = warm_up(contestants[kRule]), other = warm_up(contestants[kRest]);
  const double calls = rows_.one_sequence ? other : std::max(0.0, rule - other);
  const double most = rule + (kHopeless - 1) * calls + kSlackOfSample * rule;
  for (std::size_t p = 1; p < site.paths.size(); ++p) {
    if (seconds_used() >= end) {
      complete_ = false;
      return;
    }
    trial[site.shape] = site.paths[p];
    Graph graph;
    try {
      graph = record(trial);
    } catch (const Error&) {
      continue;  // a layer too wide for the path
    }
    Contestant candidate(site.paths[p], std::move(graph), stream_.device());
    if (warm_up(candidate) > most) continue;
    contestants.emplace_back(candidate.row, std::move(candidate.graph), stream_.device());
  }
}

void PathTuner::tune_site(const Site& site, double seconds, Choices& choices) {
  const double end = seconds_used() + seconds;
  if (seconds <= 0) {
    complete_ = false;
    return;
  }
  std::deque<Contestant> contestants;
  contestants.emplace_back(site.paths.front(), record(choices), stream_.device());
  set_replays(contestants[kRule]);
  enter(contestants, site, choices, end);
  const bool alone = contestants.size() == kFirstCandidate;
  const int few = std::min(kAloneRounds, options_.rounds);
  quiet_rounds(contestants, alone ? few : options_.rounds, end);
  if (contestants[kRule].samples.empty()) return;

  std::vector<const Contestant*> competing;  // the default and the candidates
  const auto judge = [&] {
    std::vector<std::vector<double>> samples;
    competing.clear();
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      if (i == kRest || contestants[i].samples.empty()) continue;
      competing.push_back(&contestants[i]);
      samples.push_back(contestants[i].samples);
    }
    std::vector<double> rest = contestants[kRest].samples;
    for (std::size_t r = 0; rows_.one_sequence && r < rest.size(); ++r) rest[r] = samples.front()[r] - rest[r];
    return judge_paths(samples, rest, site.calls);
  };
  PathVerdict verdict = judge();
  for (int times = 1; times < kMostTimes && verdict.seems_faster; ++times) {
    if (!rounds(contestants, options_.rounds, end)) break;
    verdict = judge();
  }
  const Contestant& winner = *competing[verdict.winner];
  PathEntry entry{site.shape, rows_.rows, winner.row, site.paths.front(), 0, 0, 0, verdict.reason, {}};
  if (options_.judging_rounds > 0 && !alone) {
    quiet_rounds(contestants, options_.judging_rounds, seconds_used() + seconds);
    if (contestants[kRule].samples.empty()) return;
    verdict = judge();
  }
  for (std::size_t i = 0; i < competing.size(); ++i) {
    entry.measured.push_back({competing[i]->row, verdict.call_us[i], static_cast<int>(competing[i]->samples.size())});
    if (competing[i] == &winner) entry.us = verdict.call_us[i];
  }
  entry.default_us = verdict.call_us.front();
  entry.samples = static_cast<int>(contestants[kRule].samples.size());
  entry.spread = path_spread(contestants[kRule].samples);
  if (winner.row != site.paths.front()) {
    choices[site.shape] = winner.row;
  }
  table_.entries.push_back(std::move(entry));
}

// Replaced paths must pay together: each was judged with those before it and not with those after.
void PathTuner::check_choices(const Graph& rules, const Graph& chain, std::size_t first_entry) {
  PathChain result{rows_.rows, static_cast<int>(layers_.size()), 0, 0};
  std::deque<Contestant> both;
  both.emplace_back(nullptr, rules, stream_.device());
  both.emplace_back(nullptr, chain, stream_.device());
  set_replays(both[0]);
  for (int r = 0; r < options_.rounds; ++r) round(both, static_cast<std::size_t>(r));
  result.default_us = result.us = select::median(both[0].samples);
  if (chain != rules) {
    std::vector<double> ratios;
    for (std::size_t r = 0; r < both[0].samples.size(); ++r) ratios.push_back(both[1].samples[r] / both[0].samples[r]);
    result.us = select::median(ratios) * result.default_us;
    if (result.us >= result.default_us) {
      for (std::size_t i = first_entry; i < table_.entries.size(); ++i) {
        PathEntry& entry = table_.entries[i];
        if (entry.row == entry.default_row) continue;
        entry.row = entry.default_row;
        entry.us = entry.default_us;
        entry.reason = PathReason::kTogether;
      }
      result.us = result.default_us;
    }
  }
  table_.chains.push_back(result);
}

}  // namespace fairway::model
