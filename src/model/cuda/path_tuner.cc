// Sites, candidates and rounds.
#include "model/cuda/path_tuner.cuh"

#include <algorithm>
#include <utility>

namespace fairway::model {
namespace {

using kernels::CudaRow;
using kernels::cuda::LinearCall;
using kernels::cuda::LinearPath;
using kernels::cuda::MoeCall;
using kernels::cuda::MoeLayer;
using kernels::cuda::MoePath;

constexpr double kTie = 0.02;          // a gain that is not worth another path
constexpr double kHopeless = 2;        // times the default's time
constexpr double kSampleTarget = 400;  // microseconds of a sample, for which short graphs are replayed several times
constexpr int kMostReplays = 20;
constexpr int kManyRows = 64, kCallsOfManyRows = 8;
constexpr int kMostDirectRows = 16;  // a path that decodes for each row is not tried beyond

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Calls by shape, in the order of their first.
template <class Call, class ShapeOf>
std::vector<std::pair<std::string, std::vector<Call>>> by_shape(const std::vector<Call>& calls, const ShapeOf& shape) {
  std::vector<std::pair<std::string, std::vector<Call>>> groups;
  for (const Call& call : calls) {
    const std::string name = shape(call);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == name; });
    if (group == groups.end()) group = groups.insert(groups.end(), {name, {}});
    group->second.push_back(call);
  }
  return groups;
}

template <class Call>
void limit(std::vector<Call>& calls, int rows) {
  if (rows > kManyRows && calls.size() > kCallsOfManyRows) calls.erase(calls.begin() + kCallsOfManyRows, calls.end());
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

}  // namespace

PathTuner::PathTuner(const DevicePass& pass, backend::CudaStream& stream, const PathTuneOptions& options)
    : pass_(pass), stream_(stream), options_(options), timer_(stream.device()), begin_(Clock::now()) {}

std::vector<PathTuner::Site> PathTuner::sites_of(const DeviceCalls& calls) const {
  std::vector<Site> sites;
  using Expert = std::pair<MoeLayer, MoeCall>;
  for (auto& [shape, group] : by_shape(calls.experts, [](const Expert& e) { return shape_of(e.first); })) {
    const auto& [layer, call] = group.front();
    Site site{shape, 0, call.tokens, {}, {}};
    const MoeLayer& first = layer;
    site.paths = legal_rows(kernels::cuda::moe_default_path(layer, call.tokens), kernels::cuda::kMoePaths, call.tokens,
                            [&](MoePath path) { return kernels::cuda::moe_path_legal(first, path); });
    limit(group, site.rows);
    site.calls = static_cast<int>(group.size());
    site.queue = [group = group, workspace = pass_.moe_workspace()](const CudaRow& row, cudaStream_t stream) {
      for (const Expert& e : group) {
        kernels::cuda::moe_swiglu(e.first, e.second, path_of<MoePath>(row), workspace, stream);
      }
    };
    sites.push_back(std::move(site));
  }
  for (auto& [shape, group] : by_shape(calls.linears, [](const LinearCall& c) { return shape_of(c); })) {
    const LinearCall& call = group.front();
    Site site{shape, 0, call.rows, {}, {}};
    site.paths = legal_rows(kernels::cuda::linear_default_path(call), kernels::cuda::kLinearPaths, call.rows,
                            [&](LinearPath path) {
                              return kernels::cuda::linear_path_legal(call, path) &&
                                     (call.norm.x == nullptr || kernels::cuda::linear_takes_norm(call, path));
                            });
    limit(group, site.rows);
    site.calls = static_cast<int>(group.size());
    site.queue = [group = group, workspace = pass_.linear_workspace()](const CudaRow& row, cudaStream_t stream) {
      const LinearPath path = path_of<LinearPath>(row);
      for (LinearCall c : group) {
        if (c.norm.x != nullptr && !kernels::cuda::linear_takes_norm(c, path)) c.norm = {};  // the first path may not
        kernels::cuda::trellis_linear(c, path, workspace, stream);
      }
    };
    sites.push_back(std::move(site));
  }
  return sites;
}

void PathTuner::tune(const DeviceCalls& calls, int rows, std::size_t passes_left) {
  std::vector<Site> sites = sites_of(calls);
  // The head computes a limited number of rows; each number once.
  std::erase_if(sites, [&](const Site& site) {
    return site.rows != rows && std::any_of(entries_.begin(), entries_.end(), [&](const PathEntry& e) {
             return e.shape == site.shape && e.rows == site.rows;
           });
  });
  const double share = 1.0 / static_cast<double>(passes_left);
  const double left = std::max(0.0, options_.budget_seconds - seconds_used());
  const double end = seconds_used() + left * share, progress = (1 - done_) * share;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    tune_site(sites[i], std::max(0.0, end - seconds_used()) / static_cast<double>(sites.size() - i));
    done_ += progress / static_cast<double>(sites.size());
    if (options_.progress) options_.progress(done_);
  }
}

// Microseconds of a call.
double PathTuner::sample(const Candidate& candidate, int calls) {
  timer_.start(stream_);
  for (int i = 0; i < candidate.replays; ++i) candidate.graph->replay(stream_);
  timer_.stop(stream_);
  return timer_.microseconds() / (candidate.replays * calls);
}

void PathTuner::tune_site(const Site& site, double seconds) {
  const double end = seconds_used() + seconds;
  std::vector<Candidate> candidates;
  double warm_default = 0;
  for (const CudaRow* row : site.paths) {
    if (!candidates.empty() && seconds_used() >= end) {
      complete_ = false;
      break;
    }
    Candidate candidate{row, {}, 1, {}};
    const auto record = [&] { site.queue(*row, static_cast<cudaStream_t>(stream_.handle())); };
    candidate.graph = std::make_unique<backend::CudaGraph>(stream_, record);
    sample(candidate, site.calls);  // loads code and fills caches
    const double warm = sample(candidate, site.calls);
    if (candidates.empty()) warm_default = warm;
    if (warm > kHopeless * warm_default) continue;
    candidate.replays = static_cast<int>(
        std::clamp(kSampleTarget / std::max(1e-3, warm * site.calls), 1.0, static_cast<double>(kMostReplays)));
    candidates.push_back(std::move(candidate));
  }
  int rounds = 0;
  for (; rounds < options_.rounds; ++rounds) {
    if (seconds_used() >= end) {
      complete_ = false;
      break;
    }
    for (Candidate& candidate : candidates) candidate.samples.push_back(sample(candidate, site.calls));
  }
  if (rounds == 0) return;
  const Candidate& first = candidates.front();
  const Candidate* best = &first;
  for (const Candidate& candidate : candidates) {
    if (median(candidate.samples) < median(best->samples)) best = &candidate;
  }
  if (median(best->samples) > (1 - kTie) * median(first.samples)) best = &first;
  entries_.push_back(
      {site.shape, site.rows, best->row, first.row, median(best->samples), median(first.samples), rounds});
}

}  // namespace fairway::model
