// Which row, with which tile, runs an MoE call: the one selector of the engine.
//
// Four steps. Legal: candidates.h. Prefer: the policy's kernel if it forces one, else the tuned table, else the rules
// of the device family. Explore: where learning is on, a Learner per kind of call may replace the preferred candidate
// by another one of the same numerics class. Remember: the times of the calls themselves.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "select/candidates.h"
#include "select/learner.h"
#include "select/moe_call.h"
#include "select/tuned_table.h"

namespace fairway::select {

enum class Reason : std::uint8_t { kForced, kTuned, kRules, kLearned, kExplored };
const char* reason_name(Reason reason);  // "forced", "tuned", "rules", "learned", "explored"

struct SelectorOptions {
  Policy policy;
  int threads = 1;
  bool learn = false;      // explore and switch; off: the same call always gets the same candidate
  LearnerOptions learner;  // sweep_calls is set by the selector
  double slack = 0.25;     // predicted slowdown up to which candidates are explored
};

class KernelSelector {
 public:
  // One kind of call: its candidates and what is known of them. Never moves or dies before the selector.
  struct Site {
    MoeLayerTraits traits;
    int tokens;                            // representative of the bucket
    std::vector<MoeCandidate> candidates;  // default first
    int preferred;                         // index
    Reason preferred_reason;
    std::string why;                   // one sentence on the preference
    Fallback fallback;                 // of the rules, if they could not take the preferred kind of row
    std::unique_ptr<Learner> learner;  // null: no learning
    mutable std::array<std::atomic<std::uint64_t>, Learner::kMaxArms> chosen{};
  };
  struct Decision {
    const Site* site;
    int index;  // of site->candidates
    Reason reason;
    const MoeCandidate& candidate() const { return site->candidates[static_cast<std::size_t>(index)]; }
  };

  explicit KernelSelector(const SelectorOptions& options, TunedTable table = {});
  ~KernelSelector();

  // traits.key must not be 0. A call of a kind that was met before takes no lock and allocates nothing.
  Decision decide(const MoeLayerTraits& traits, int tokens);
  // What runs the experts of one bit tuple in that call: the decision, unless its row was refused for the tuple; then
  // the first candidate whose row was not. Error(kUsage) if there is none.
  const MoeCandidate& candidate_for(const Decision& decision, kernels::BitTuple bits) const;
  // From now on rows of that family or id are not used for experts of this bit tuple: they failed there. Not to be
  // called while others decide.
  void refuse(const std::string& kernel, kernels::BitTuple bits);

  // The time of the call that was decided on. No effect without learning.
  void record(const Decision& decision, double milliseconds);

  bool learns() const { return options_.learn; }
  const SelectorOptions& options() const { return options_; }
  const TunedTable& table() const { return table_; }

  // All sites met so far, in the order in which they were met.
  std::vector<const Site*> sites() const;

  // "moe_swiglu, 16 tokens, (3,3,3): cpu_avx512/moe_trellis_swiglu_grouped, tuned, 4 % faster than ..."
  std::string explain_line(const Decision& decision) const;

 private:
  static constexpr std::size_t kSlots = 8192;
  struct Slot {
    std::atomic<std::uint64_t> key{0};
    std::atomic<Site*> site{nullptr};
  };
  Site* find_or_add(std::uint64_t key, const MoeLayerTraits& traits, int tokens);
  std::unique_ptr<Site> make_site(const MoeLayerTraits& traits, int tokens) const;

  const SelectorOptions options_;
  const TunedTable table_;
  struct Refusal {
    std::string kernel;
    kernels::BitTuple bits;
  };
  std::vector<Refusal> refusals_;
  std::unique_ptr<std::array<Slot, kSlots>> slots_;
  mutable std::mutex mutex_;  // of sites_
  std::vector<std::unique_ptr<Site>> sites_;
};

// Gives the policy a selector of its own for so many threads, which prefers what the table says. learn: explore and
// switch.
void attach_selector(Policy& policy, int threads, TunedTable table = {}, bool learn = false);

// Calls of so many tokens share what is learned: exact up to 64, then in steps of an eighth.
int token_bucket(int tokens);

}  // namespace fairway::select
