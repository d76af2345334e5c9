// fairway explain: what runs a MoE call, why, what else could, and what fell back.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/cli.h"
#include "cli/moe_layers.h"
#include "cli/selection.h"

namespace fairway::cli {
namespace {

using select::KernelSelector;
using select::MoeCandidate;

struct ExplainOptions {
  LayerOptions layers;
  KernelOptions kernels;
  StartOptions start;
  std::vector<int> batch_sizes;
  int threads = 0;
};

struct CandidateTimes {
  MoeCandidate candidate;
  double predicted_ms;
  double measured_ms = 0;  // 0: not measured
};

struct CallReport {
  KernelSelector::Decision decision;
  std::vector<CandidateTimes> candidates;  // the chosen one first, then by time
  std::string line;
};

const select::MeasuredKernel* measured(const select::TunedEntry* entry, const MoeCandidate& candidate) {
  if (entry == nullptr) return nullptr;
  for (const select::MeasuredKernel& kernel : entry->measured) {
    if (kernel.config == select::config_of(candidate)) return &kernel;
  }
  return nullptr;
}

// Every candidate that could run the call, those that tuning would time with their tiles, and those of the table.
std::vector<MoeCandidate> all_candidates(const KernelSelector& selector, const KernelSelector::Site& site,
                                         const select::TunedEntry* entry) {
  std::vector<MoeCandidate> all = site.candidates;
  const auto add = [&](const MoeCandidate& candidate) {
    if (std::find(all.begin(), all.end(), candidate) == all.end()) all.push_back(candidate);
  };
  const select::SelectorOptions& options = selector.options();
  for (const MoeCandidate& candidate :
       select::promising_candidates(options.policy, site.traits, site.tokens, options.threads, options.slack)) {
    add(candidate);
  }
  if (entry != nullptr) {
    for (const select::MeasuredKernel& kernel : entry->measured) add(select::candidate_of(kernel.config));
  }
  return all;
}

CallReport explain_call(KernelSelector& selector, const select::MoeLayerTraits& traits, int tokens) {
  CallReport report{selector.decide(traits, tokens), {}, {}};
  const KernelSelector::Site& site = *report.decision.site;
  const MoeCandidate& chosen = report.decision.candidate();
  const int threads = selector.options().threads;
  const auto match =
      selector.table().find(site.traits, site.tokens, threads, kernels::activations_name(chosen.row->info.activations));
  const select::TunedEntry* entry = match && site.preferred_reason == select::Reason::kTuned ? match->entry : nullptr;
  for (const MoeCandidate& candidate : all_candidates(selector, site, entry)) {
    const select::MeasuredKernel* kernel = measured(entry, candidate);
    report.candidates.push_back({candidate, select::predicted_ms(candidate, site.traits, site.tokens, threads),
                                 kernel == nullptr ? 0 : kernel->median_ms});
  }
  // Measured ones by their times, then the others by prediction.
  std::stable_sort(report.candidates.begin(), report.candidates.end(),
                   [&](const CandidateTimes& a, const CandidateTimes& b) {
                     if ((a.candidate == chosen) != (b.candidate == chosen)) return a.candidate == chosen;
                     if ((a.measured_ms > 0) != (b.measured_ms > 0)) return a.measured_ms > 0;
                     return a.measured_ms > 0 ? a.measured_ms < b.measured_ms : a.predicted_ms < b.predicted_ms;
                   });
  report.line = selector.explain_line(report.decision);
  return report;
}

const char* fallback_text(select::Fallback fallback) {
  switch (fallback) {
    case select::Fallback::kNone:
      return "nothing fell back";
    case select::Fallback::kNoInt8ForCodebook:
      return "no integer row reads the codebooks of this layer; fp32 activations instead";
    case select::Fallback::kNoVectorRow:
      return "no vector row runs on this processor; the scalar reference instead";
    case select::Fallback::kRefusedTuple:
      return "a bit tuple refused the row";
  }
  return "unknown";
}

// Of the chosen candidate over the next one: by measured times if both have them, else by predicted ones.
struct Margin {
  const CandidateTimes* runner_up = nullptr;
  double share = 0;  // of the runner-up's time; negative: the chosen one is slower
  bool measured = false;
};
Margin margin_of(const CallReport& report) {
  if (report.candidates.size() < 2) return {};
  const CandidateTimes& chosen = report.candidates[0];
  const CandidateTimes& next = report.candidates[1];
  if (chosen.measured_ms > 0 && next.measured_ms > 0) return {&next, 1 - chosen.measured_ms / next.measured_ms, true};
  return {&next, 1 - chosen.predicted_ms / next.predicted_ms, false};
}

std::string call_text(const CallReport& report) {
  const KernelSelector::Site& site = *report.decision.site;
  const Margin margin = margin_of(report);
  std::string text = fmt::format("{} tokens, {}: {}\n  {}: {}; {}\n", site.tokens, site.traits.mix_text(),
                                 report.decision.candidate().name(), select::reason_name(report.decision.reason),
                                 site.why, fallback_text(site.fallback));
  if (margin.runner_up != nullptr) {
    text += fmt::format("  runner-up {}; the choice takes {:.1f} % {} time ({})\n", margin.runner_up->candidate.name(),
                        100 * std::abs(margin.share), margin.share >= 0 ? "less" : "more",
                        margin.measured ? "measured" : "predicted");
  }
  text += fmt::format("  {:>10} {:>10}  candidate\n", "predicted", "measured");
  for (const CandidateTimes& times : report.candidates) {
    const std::string ms = times.measured_ms > 0 ? fmt::format("{:.3f}", times.measured_ms) : "-";
    text += fmt::format("  {:>7.3f} ms {:>7} ms  {}\n", times.predicted_ms, ms, times.candidate.name());
  }
  return text;
}

Json call_json(const CallReport& report) {
  const KernelSelector::Site& site = *report.decision.site;
  const Margin margin = margin_of(report);
  Json candidates = Json::array();
  for (const CandidateTimes& times : report.candidates) {
    candidates.push_back({{"kernel", times.candidate.name()},
                          {"predicted_ms", times.predicted_ms},
                          {"measured_ms", times.measured_ms > 0 ? Json(times.measured_ms) : Json(nullptr)}});
  }
  Json json = {{"tokens", site.tokens},
               {"bits", site.traits.mix_text()},
               {"kernel", report.decision.candidate().name()},
               {"reason", select::reason_name(report.decision.reason)},
               {"why", site.why},
               {"fallback", select::fallback_name(site.fallback)},
               {"line", report.line},
               {"candidates", candidates}};
  json["runner_up"] = margin.runner_up == nullptr ? Json(nullptr) : Json(margin.runner_up->candidate.name());
  json["margin"] = margin.runner_up == nullptr ? Json(nullptr) : Json(margin.share);
  json["margin_is"] = margin.measured ? "measured" : "predicted";
  return json;
}

std::string table_text(const StartTable& start) {
  if (start.used) {
    return fmt::format("table: {}, {} entries, {}\n", start.path.string(), start.table.entries.size(),
                       start.table.date);
  }
  if (!start.why_not.empty()) return fmt::format("table: {}\n", start.why_not);
  if (start.path.empty()) return "table: none is used\n";
  return fmt::format("table: {} does not exist; `fairway autotune` writes it\n", start.path.string());
}

int explain(const ExplainOptions& options, bool json) {
  check_layer_options(options.layers);
  const StartTable start = load_start_table(options.start);
  const select::Policy policy = start_policy(options.kernels, options.start, options.threads, start);
  KernelSelector& selector = *policy.selector;
  Json kinds = Json::array();
  std::string text = table_text(start);
  for (const LayerKind& kind : layer_kinds(options.layers)) {
    const select::MoeLayerTraits& t = kind.traits;
    text += fmt::format("\n{}{} experts of {} x {}, {} per token and {} always on, {}; {} threads\n",
                        kind.layers > 0 ? fmt::format("{} layers of ", kind.layers) : "", t.experts, t.hidden,
                        t.intermediate, t.top_k, t.always_on, t.mix_text(), selector.options().threads);
    Json calls = Json::array();
    for (const int tokens : options.batch_sizes) {
      const CallReport report = explain_call(selector, t, tokens);
      text += call_text(report);
      calls.push_back(call_json(report));
    }
    kinds.push_back({{"layers", kind.layers},
                     {"hidden", t.hidden},
                     {"intermediate", t.intermediate},
                     {"experts", t.experts},
                     {"top_k", t.top_k},
                     {"always_on", t.always_on},
                     {"bits", t.mix_text()},
                     {"calls", std::move(calls)}});
  }
  if (json) {
    print_json({{"threads", selector.options().threads}, {"table", start_table_json(start)}, {"layers", kinds}});
  } else {
    print_text(text);
  }
  return kExitOk;
}

}  // namespace

void add_explain_command(CLI::App& app, Invocation& call) {
  const auto options = std::make_shared<ExplainOptions>();
  CLI::App* command = add_command(app, call, "explain", "Say which kernel runs a MoE call, why, and what else could",
                                  "fairway explain --geometry glm47 --batch-sizes 1,16 --threads 2");
  add_layer_options(*command, options->layers);
  command->add_option("--batch-sizes,--batch", options->batch_sizes, "Tokens of a call, a list such as 1,16,64")
      ->required()
      ->delimiter(',')
      ->check(number_in(1, 65536))
      ->type_name("LIST");
  add_threads_option(*command, options->threads);
  add_kernel_options(*command, options->kernels);
  add_table_options(*command, options->start);
  command->callback([options, &call] { call.action = [options, &call] { return explain(*options, call.json); }; });
}

}  // namespace fairway::cli
