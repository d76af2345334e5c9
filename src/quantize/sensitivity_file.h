// A measured sensitivity as a file, so that other budgets can be tried without measuring again.
#pragma once

#include <string>

#include "quantize/sensitivity.h"

namespace fairway::quantize {

// What sensitivity.h promises: sizes in range, weights a multiple of 128 * 128, finite positive losses that do not grow
// with the width, module keys that fit layer and expert, none twice, three matrices for every routed expert, at most
// one head. Error(kBadInput) names `source`, the matrix, the field, its value and what was expected.
void check_sensitivity(const ModelSensitivity& sensitivity, const std::string& source);

// JSON, one line per matrix. Read back it is the same, to the last bit of every loss.
std::string sensitivity_text(const ModelSensitivity& sensitivity);

// Untrusted text, at most 256 MiB and 200,000 matrices; the result passes check_sensitivity(). Error(kBadInput) names
// `source`, key, value and what was expected; unknown, missing and repeated keys are errors.
ModelSensitivity parse_sensitivity(const std::string& text, const std::string& source);

}  // namespace fairway::quantize
