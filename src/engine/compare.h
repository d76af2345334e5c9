// How the predictions and hidden states of models differ from those of a reference model, window by window.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace fairway::engine {

// Of one model, over the counted predictions of all windows.
struct ModelScore {
  double negative_log = 0;  // sum of -log p(token), natural logarithm
  double seconds = 0;       // in forward passes and heads, of all predictions, counted or not
};

// Of one candidate against the reference. A divergence is D(P_reference || P_candidate) of one prediction, in nats.
struct CandidateScore : ModelScore {
  std::vector<float> divergences;          // of the counted predictions, in their order
  double divergence_sum = 0;               // of them, before rounding to float
  std::vector<double> window_divergences;  // mean over the counted predictions of each window
  std::int64_t same_top = 0;               // counted predictions whose likeliest token is the reference's
  // Sums of squares after each layer over the rows that were looked at: of the difference of the hidden states, and of
  // the reference's. Empty if the layers were not looked at or are not comparable.
  std::vector<double> layer_difference, layer_reference;
};

// Value below or at which the share q of the samples lies (the smallest sample that has this property); at least one
// sample, 0 < q <= 1.
float quantile(std::span<const float> samples, double q);

// Runs windows through a reference and its candidates in step: each chunk of tokens, and each block of rows of logits,
// goes through all models in turn before the next one. So their times see the same machine, and no more than one block
// of logits of each model is held.
class Comparison {
 public:
  // The engines must outlive the comparison and differ from each other. Error(kBadInput) naming both models if their
  // vocabularies differ in size.
  Comparison(Engine& reference, std::vector<Engine*> candidates);
  ~Comparison();
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

  // Adds the last `counted` predictions of ids[1], ids[2], ..., each given all ids before it; 1 <= counted <
  // ids.size(). With `layers` hidden states are compared too, of as many evenly spaced rows of a chunk as fit 64 MB.
  // Error(kCancelled) adds nothing of the window. Error(kBadInput) names a model whose logits are not finite.
  void add_window(std::span<const int> ids, std::int64_t counted, bool layers,
                  const std::atomic<bool>* cancel = nullptr);

  std::int64_t windows() const { return windows_; }
  std::int64_t tokens() const { return tokens_; }        // counted predictions
  std::int64_t evaluated() const { return evaluated_; }  // all predictions
  const ModelScore& reference() const { return reference_score_; }
  const CandidateScore& candidate(std::size_t index) const { return scores_[index]; }
  std::size_t candidates() const { return scores_.size(); }

  // Whether the candidate has the reference's number of layers and hidden size.
  bool has_comparable_layers(std::size_t index) const;

 private:
  class Window;
  Engine& reference_;
  std::vector<Engine*> candidates_;
  std::int64_t windows_ = 0, tokens_ = 0, evaluated_ = 0;
  ModelScore reference_score_;
  std::vector<CandidateScore> scores_;
};

}  // namespace fairway::engine
