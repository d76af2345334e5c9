// The parts of a token's time.
#include "cli/bench_profile.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "cli/report.h"

namespace fairway::cli {

Json profile_json(const std::vector<StageSample>& samples, int tokens) {
  const auto part = [&](const std::function<double(const StageSample&)>& seconds) {
    std::vector<double> values;
    values.reserve(samples.size());
    for (const StageSample& sample : samples) values.push_back(1e3 * seconds(sample) / tokens);
    return median(values);
  };
  const auto stage = [](const StageSample& sample, moe::Stage which) {
    return sample.stages[static_cast<std::size_t>(which)];
  };
  return {{"attention_projections_ms", part([&](const StageSample& s) {
             return stage(s, moe::Stage::kAttentionBlock) - stage(s, moe::Stage::kAttention);
           })},
          {"attention_ms", part([&](const StageSample& s) { return stage(s, moe::Stage::kAttention); })},
          {"experts_ms", part([&](const StageSample& s) { return stage(s, moe::Stage::kExperts); })},
          {"head_ms", part([&](const StageSample& s) { return stage(s, moe::Stage::kHead); })},
          {"other_ms", part([&](const StageSample& s) {
             return s.seconds - stage(s, moe::Stage::kAttentionBlock) - stage(s, moe::Stage::kExperts) -
                    stage(s, moe::Stage::kHead);
           })}};
}

std::string profile_text(const Json& profile, double ms_per_token) {
  const std::pair<const char*, const char*> parts[] = {{"attention_projections_ms", "attention projections"},
                                                       {"attention_ms", "attention"},
                                                       {"experts_ms", "experts and router"},
                                                       {"head_ms", "head"},
                                                       {"other_ms", "norms, sampling, rest"}};
  std::string text;
  for (const auto& [key, name] : parts) {
    const double ms = profile[key].get<double>();
    const double share = ms / ms_per_token;
    const int bar = static_cast<int>(std::lround(40 * std::clamp(share, 0.0, 1.0)));
    text += fmt::format("    {:<22} {:8.3f} ms {:5.1f}% {}\n", name, ms, 100 * share,
                        std::string(static_cast<std::size_t>(bar), '#'));
  }
  return text;
}

}  // namespace fairway::cli
