// Windows through several models in step, and what is counted of them.
#include "engine/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "engine/divergence.h"
#include "engine/layer_trace.h"
#include "engine/window_walk.h"
#include "fairway/error.h"

namespace fairway::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::string name_of(const Engine& engine) {
  return engine.model().checkpoint().directory().string();
}

}  // namespace

float quantile(std::span<const float> samples, double q) {
  std::vector<float> sorted(samples.begin(), samples.end());
  const double rank = std::ceil(q * static_cast<double>(sorted.size()));
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(std::max(rank, 1.0)) - 1;
  std::nth_element(sorted.begin(), at, sorted.end());
  return *at;
}

// One window under way. Its results become part of the comparison when it is complete.
class Comparison::Window {
 public:
  Window(Comparison& owner, std::span<const int> ids, std::int64_t counted, bool layers)
      : owner_(owner),
        ids_(ids),
        first_counted_(ids.size() - 1 - static_cast<std::size_t>(counted)),
        layers_(layers),
        trace_(owner.reference_.model().config().num_hidden_layers, owner.reference_.model().config().hidden_size) {
    models_.push_back(owner.reference_.state_.get());
    for (Engine* candidate : owner.candidates_) models_.push_back(candidate->state_.get());
    seconds_.assign(models_.size(), 0.0);
    const std::size_t predictions = ids.size() - 1;
    reference_logprobs_.assign(predictions, 0.0);
    rows_.assign(owner.scores_.size(), std::vector<RowDifference>(predictions));
    layer_difference_.resize(owner.scores_.size());
    layer_reference_.resize(owner.scores_.size());
  }

  void run(const std::atomic<bool>* cancel) {
    std::span<const int> inputs;
    for (Engine::State* model : models_) inputs = model->start_window(ids_);
    Engine::State& reference = *models_.front();
    softmax_.resize(static_cast<std::size_t>(reference.pool.size()));
    walk_window(
        inputs, static_cast<std::size_t>(reference.options.prefill_chunk),
        static_cast<std::size_t>(logit_rows(reference.vocab_size())), cancel,
        [&](std::span<const int> chunk) { forward(chunk); }, [&](const RowBlock& block) { compare_block(block); });
    check();
  }

  void commit() {
    const std::size_t predictions = ids_.size() - 1;
    const std::size_t counted = predictions - first_counted_;
    ++owner_.windows_;
    owner_.tokens_ += static_cast<std::int64_t>(counted);
    owner_.evaluated_ += static_cast<std::int64_t>(predictions);
    for (std::size_t i = first_counted_; i < predictions; ++i) {
      owner_.reference_score_.negative_log -= reference_logprobs_[i];
    }
    owner_.reference_score_.seconds += seconds_[0];
    for (std::size_t c = 0; c < owner_.scores_.size(); ++c) commit_candidate(c, counted);
  }

 private:
  void forward(std::span<const int> chunk) {
    for (std::size_t i = 0; i < models_.size(); ++i) {
      Engine::State& model = *models_[i];
      double observed = 0;  // seconds that belong to the observer and not to the model
      if (layers_ && (i == 0 || owner_.has_comparable_layers(i - 1))) observe(i, observed);
      const auto begin = Clock::now();
      try {
        model.forward(chunk);
      } catch (...) {
        model.counters.layer_observer = {};
        throw;
      }
      model.counters.layer_observer = {};
      seconds_[i] += seconds_since(begin) - observed;
    }
  }

  void observe(std::size_t i, double& observed) {
    if (i > 0) {
      const auto layers = static_cast<std::size_t>(models_[i]->model.config().num_hidden_layers);
      layer_difference_[i - 1].resize(layers, 0.0);
      layer_reference_[i - 1].resize(layers, 0.0);
    }
    models_[i]->counters.layer_observer = [this, i, &observed](int layer, const float* x, int m, int) {
      const auto begin = Clock::now();
      if (i == 0) {
        trace_.keep(layer, x, m);
      } else {
        const auto l = static_cast<std::size_t>(layer);
        trace_.compare(layer, x, m, layer_difference_[i - 1][l], layer_reference_[i - 1][l]);
      }
      observed += seconds_since(begin);
    };
  }

  void compare_block(const RowBlock& block) {
    for (std::size_t i = 0; i < models_.size(); ++i) {
      const auto begin = Clock::now();
      models_[i]->block_logits(block.row, block.rows);
      seconds_[i] += seconds_since(begin);
    }
    models_.front()->pool.parallel_for(static_cast<std::int64_t>(block.rows), [&](std::int64_t row, int worker) {
      compare_row(block.position, static_cast<std::size_t>(row), softmax_[static_cast<std::size_t>(worker)]);
    });
  }

  void compare_row(std::size_t position, std::size_t row, ReferenceRow& softmax) {
    const auto vocab = static_cast<std::size_t>(models_.front()->vocab_size());
    const std::size_t at = position + row;
    const int target = ids_[at + 1];
    softmax.reset(std::span(models_.front()->logits).subspan(row * vocab, vocab));
    reference_logprobs_[at] = softmax.logprob(target);
    for (std::size_t c = 0; c < rows_.size(); ++c) {
      rows_[c][at] = softmax.compare(std::span(models_[c + 1]->logits).subspan(row * vocab, vocab), target);
    }
  }

  void check() const {
    const auto fail = [&](const Engine& engine, std::size_t at, double value) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: window {}: the log-probability of token {} is {}, expected a finite number; the "
                              "weights are damaged",
                              name_of(engine), owner_.windows_, at + 1, value));
    };
    for (std::size_t at = 0; at < reference_logprobs_.size(); ++at) {
      if (!std::isfinite(reference_logprobs_[at])) fail(owner_.reference_, at, reference_logprobs_[at]);
      for (std::size_t c = 0; c < rows_.size(); ++c) {
        if (!std::isfinite(rows_[c][at].logprob)) fail(*owner_.candidates_[c], at, rows_[c][at].logprob);
      }
    }
  }

  void commit_candidate(std::size_t c, std::size_t counted) {
    CandidateScore& score = owner_.scores_[c];
    double sum = 0;
    for (std::size_t i = first_counted_; i < rows_[c].size(); ++i) {
      const RowDifference& row = rows_[c][i];
      sum += row.divergence;
      score.divergences.push_back(static_cast<float>(row.divergence));
      score.negative_log -= row.logprob;
      score.same_top += row.same_top ? 1 : 0;
    }
    score.divergence_sum += sum;
    score.window_divergences.push_back(sum / static_cast<double>(counted));
    score.seconds += seconds_[c + 1];
    score.layer_difference.resize(std::max(score.layer_difference.size(), layer_difference_[c].size()), 0.0);
    score.layer_reference.resize(score.layer_difference.size(), 0.0);
    for (std::size_t l = 0; l < layer_difference_[c].size(); ++l) {
      score.layer_difference[l] += layer_difference_[c][l];
      score.layer_reference[l] += layer_reference_[c][l];
    }
  }

  Comparison& owner_;
  std::span<const int> ids_;
  std::size_t first_counted_;
  bool layers_;
  LayerTrace trace_;
  std::vector<Engine::State*> models_;                                   // the reference, then the candidates
  std::vector<double> seconds_;                                          // of each model
  std::vector<double> reference_logprobs_;                               // of every prediction
  std::vector<std::vector<RowDifference>> rows_;                         // [candidate][prediction]
  std::vector<std::vector<double>> layer_difference_, layer_reference_;  // [candidate][layer]
  std::vector<ReferenceRow> softmax_;                                    // of each worker
};

Comparison::Comparison(Engine& reference, std::vector<Engine*> candidates)
    : reference_(reference), candidates_(std::move(candidates)), scores_(candidates_.size()) {
  const int vocab = reference_.model().config().vocab_size;
  for (const Engine* candidate : candidates_) {
    const int other = candidate->model().config().vocab_size;
    if (other == vocab) continue;
    throw Error(ErrorKind::kBadInput, fmt::format("{} has a vocabulary of {}, {} one of {}; they must be equal",
                                                  name_of(reference_), vocab, name_of(*candidate), other));
  }
}

Comparison::~Comparison() = default;

void Comparison::add_window(std::span<const int> ids, std::int64_t counted, bool layers,
                            const std::atomic<bool>* cancel) {
  if (ids.size() < 2 || counted < 1 || counted >= static_cast<std::int64_t>(ids.size())) {
    throw Error(ErrorKind::kUsage, fmt::format("a window of {} tokens of which {} predictions count; expected at least "
                                               "1 and fewer than the tokens",
                                               ids.size(), counted));
  }
  Window window(*this, ids, counted, layers);
  window.run(cancel);
  window.commit();
}

bool Comparison::has_comparable_layers(std::size_t index) const {
  const formats::ModelConfig& a = reference_.model().config();
  const formats::ModelConfig& b = candidates_[index]->model().config();
  return a.num_hidden_layers == b.num_hidden_layers && a.hidden_size == b.hidden_size;
}

}  // namespace fairway::engine
