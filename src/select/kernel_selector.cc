// Sites: kinds of calls that were met, found by hash without a lock.
#include "select/kernel_selector.h"

#include <fmt/format.h>

#include <algorithm>

#include "fairway/error.h"
#include "select/allow.h"
#include "select/kernel_names.h"
#include "select/thresholds.h"

namespace fairway::select {
namespace {

// Half of the first calls of a site go to the candidates with the fewest times: enough to know two or three of them.
constexpr int kSweepCalls = 20;

std::uint64_t site_key(std::uint64_t layer, int bucket) {
  std::uint64_t key = layer ^ (static_cast<std::uint64_t>(bucket) * 0x9E3779B97F4A7C15u);
  key ^= key >> 29;
  return key == 0 ? 1 : key;
}

}  // namespace

const char* reason_name(Reason reason) {
  switch (reason) {
    case Reason::kForced:
      return "forced";
    case Reason::kTuned:
      return "tuned";
    case Reason::kRules:
      return "rules";
    case Reason::kLearned:
      return "learned";
    case Reason::kExplored:
      return "explored";
  }
  return "unknown";
}

int token_bucket(int tokens) {
  if (tokens <= 64) return tokens;
  int step = 8;
  while (tokens / 16 >= step) step *= 2;
  return tokens / step * step;
}

KernelSelector::KernelSelector(const SelectorOptions& options, TunedTable table)
    : options_(options), table_(std::move(table)), slots_(new std::array<Slot, kSlots>) {
  LearnerOptions learner = options.learner;
  Learner(1, 0, learner);  // refuses what a site could not use
}

KernelSelector::~KernelSelector() = default;

KernelSelector::Decision KernelSelector::decide(const MoeLayerTraits& traits, int tokens) {
  const int bucket = token_bucket(tokens);
  Site* const site = find_or_add(site_key(traits.key, bucket), traits, bucket);
  int index = site->preferred;
  Reason reason = site->preferred_reason;
  if (site->learner != nullptr) {
    const Learner::Pick pick = site->learner->choose();
    if (pick.arm != site->preferred || pick.explored) reason = pick.explored ? Reason::kExplored : Reason::kLearned;
    index = pick.arm;
  }
  site->chosen[static_cast<std::size_t>(index)].fetch_add(1, std::memory_order_relaxed);
  return {site, index, reason};
}

const MoeCandidate& KernelSelector::candidate_for(const Decision& decision, kernels::BitTuple bits) const {
  const auto refused = [&](const MoeCandidate& candidate) {
    return std::any_of(refusals_.begin(), refusals_.end(), [&](const Refusal& refusal) {
      return refusal.bits == bits && is_named(candidate.row->info, refusal.kernel);
    });
  };
  if (refusals_.empty() || !refused(decision.candidate())) return decision.candidate();
  for (const MoeCandidate& candidate : decision.site->candidates) {
    if (!refused(candidate)) return candidate;
  }
  throw Error(ErrorKind::kUsage, fmt::format("no kernel is left for experts of bits ({}, {}, {}): all were refused",
                                             bits.gate, bits.up, bits.down));
}

void KernelSelector::refuse(const std::string& kernel, kernels::BitTuple bits) {
  check_kernel_name(kernel);
  const kernels::KernelAlias* alias = kernels::find_alias(kernel);
  refusals_.push_back({alias == nullptr ? kernel : alias->target_family, bits});
}

void attach_selector(Policy& policy, int threads, TunedTable table, bool learn) {
  SelectorOptions options;
  options.policy = policy;
  options.policy.selector = nullptr;
  options.threads = threads;
  options.learn = learn;
  policy.selector = std::make_shared<KernelSelector>(options, std::move(table));
}

void KernelSelector::record(const Decision& decision, double milliseconds) {
  if (decision.site->learner != nullptr) decision.site->learner->record(decision.index, milliseconds);
}

std::vector<const KernelSelector::Site*> KernelSelector::sites() const {
  const std::lock_guard lock(mutex_);
  std::vector<const Site*> all;
  for (const auto& site : sites_) all.push_back(site.get());
  return all;
}

KernelSelector::Site* KernelSelector::find_or_add(std::uint64_t key, const MoeLayerTraits& traits, int tokens) {
  const auto find = [&]() -> Slot& {
    for (std::size_t i = key % kSlots;; i = (i + 1) % kSlots) {
      Slot& slot = (*slots_)[i];
      const std::uint64_t there = slot.key.load(std::memory_order_acquire);
      if (there == key || there == 0) return slot;
    }
  };
  if (Slot& slot = find(); slot.key.load(std::memory_order_acquire) == key) {
    return slot.site.load(std::memory_order_relaxed);
  }
  const std::lock_guard lock(mutex_);
  Slot& slot = find();
  if (slot.key.load(std::memory_order_relaxed) == key) return slot.site.load(std::memory_order_relaxed);
  // Free slots end every search. A model has one or a few kinds of layers and some 150 token buckets for each.
  if (sites_.size() >= kSlots / 4 * 3) {
    throw Error(ErrorKind::kResource, fmt::format("more than {} kinds of MoE calls in one selector", sites_.size()));
  }
  sites_.push_back(make_site(traits, tokens));
  Site* const site = sites_.back().get();
  slot.site.store(site, std::memory_order_relaxed);
  slot.key.store(key, std::memory_order_release);
  return site;
}

std::unique_ptr<KernelSelector::Site> KernelSelector::make_site(const MoeLayerTraits& traits, int tokens) const {
  auto site = std::make_unique<Site>();
  const Policy& policy = options_.policy;
  site->traits = traits;
  site->tokens = tokens;
  site->fallback = default_fallback(policy, traits, tokens);
  site->candidates = options_.learn ? promising_candidates(policy, traits, tokens, options_.threads, options_.slack)
                                    : legal_candidates(policy, traits, tokens);
  if (site->candidates.size() > Learner::kMaxArms) site->candidates.resize(Learner::kMaxArms);
  site->preferred = 0;
  site->preferred_reason = Reason::kRules;
  const kernels::KernelRow& first = site->candidates.front().row->info;
  if (!policy.kernel.empty()) {
    site->preferred_reason = Reason::kForced;
    site->why = fmt::format("'{}' was asked for", policy.kernel);
    return site;
  }
  site->why = fmt::format("the rules of {} for {} tokens", this_device().family, tokens);
  const auto match = table_.find(traits, tokens, options_.threads, kernels::activations_name(first.activations));
  if (match) {
    const MoeCandidate tuned = candidate_of(match->entry->best);
    const std::vector<MoeCandidate> legal = legal_candidates(policy, traits, tokens);
    const bool is_legal =
        std::any_of(legal.begin(), legal.end(), [&](const MoeCandidate& c) { return c.row == tuned.row; });
    if (is_legal) {
      const auto at = std::find(site->candidates.begin(), site->candidates.end(), tuned);
      site->preferred = static_cast<int>(at - site->candidates.begin());
      if (at == site->candidates.end()) {
        if (site->candidates.size() == Learner::kMaxArms) site->candidates.pop_back();
        site->preferred = static_cast<int>(site->candidates.size());
        site->candidates.push_back(tuned);
      }
      site->preferred_reason = Reason::kTuned;
      site->why = fmt::format("tuned table, {} ({} tokens, {})", match->how, match->entry->tokens,
                              match->entry->layer.mix_text());
    }
  }
  if (options_.learn && site->candidates.size() > 1) {
    LearnerOptions learner = options_.learner;
    learner.sweep_calls = kSweepCalls;
    site->learner = std::make_unique<Learner>(static_cast<int>(site->candidates.size()), site->preferred, learner);
  }
  return site;
}

std::string KernelSelector::explain_line(const Decision& decision) const {
  const Site& site = *decision.site;
  std::string line = fmt::format("moe_swiglu, {} tokens, {}: {}, {}", site.tokens, site.traits.mix_text(),
                                 decision.candidate().name(), reason_name(decision.reason));
  const auto match = table_.find(site.traits, site.tokens, options_.threads,
                                 kernels::activations_name(decision.candidate().row->info.activations));
  const auto measured = [&](const MoeCandidate& candidate) -> const MeasuredKernel* {
    if (!match) return nullptr;
    for (const MeasuredKernel& kernel : match->entry->measured) {
      if (kernel.config == config_of(candidate)) return &kernel;
    }
    return nullptr;
  };
  // The runner-up and the margin: measured times if there are any, else predictions.
  const MoeCandidate& chosen = decision.candidate();
  const MoeCandidate* next = nullptr;
  double chosen_ms = 0, next_ms = 0;
  const MeasuredKernel* own = measured(chosen);
  const auto time_of = [&](const MoeCandidate& candidate) {
    if (own == nullptr) return predicted_ms(candidate, site.traits, site.tokens, options_.threads);
    const MeasuredKernel* kernel = measured(candidate);
    return kernel == nullptr ? 0 : kernel->median_ms;
  };
  chosen_ms = time_of(chosen);
  for (const MoeCandidate& candidate : site.candidates) {
    if (candidate == chosen) continue;
    const double ms = time_of(candidate);
    if (ms > 0 && (next == nullptr || ms < next_ms)) {
      next = &candidate;
      next_ms = ms;
    }
  }
  if (next == nullptr) return line + ", no other candidate";
  const double margin = 100 * (next_ms - chosen_ms) / next_ms;
  return line + fmt::format(", {:.0f} % {} than {} ({})", std::abs(margin), margin >= 0 ? "faster" : "slower",
                            next->name(), own == nullptr ? "predicted" : "measured");
}

}  // namespace fairway::select
