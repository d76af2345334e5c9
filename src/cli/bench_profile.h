// Where the time of a token goes: the parts of decoding, as JSON and as bars.
#pragma once

#include <string>
#include <vector>

#include "cli/output.h"
#include "moe/counters.h"

namespace fairway::cli {

// Decoding time of one run, split by stage.
struct StageSample {
  moe::StageSeconds stages;
  double seconds;
};

// Median milliseconds per token of each part; the parts add up to about the time of a token.
Json profile_json(const std::vector<StageSample>& samples, int tokens);

std::string profile_text(const Json& profile, double ms_per_token);

}  // namespace fairway::cli
