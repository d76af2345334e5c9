// Any text as a bit plan: either an Error, or a plan with widths from 1 to 8 whose own text reads back as itself.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "fairway/error.h"
#include "quantize/bit_plan.h"

namespace {

using fairway::quantize::BitPlan;
using fairway::quantize::parse_bit_plan;

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const BitPlan& plan) {
  require(!plan.linears.empty());
  std::vector<std::string> prefixes;
  for (const auto& linear : plan.linears) {
    require(linear.bits >= 1 && linear.bits <= 8);
    prefixes.push_back(linear.prefix);
  }
  if (prefixes.size() > 1000) return;  // the input is a few bytes, its expansion and the second reading would not be
  const BitPlan again = parse_bit_plan(bit_plan_text(plan), "again", prefixes);
  require(again == plan);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(parse_bit_plan(std::string(reinterpret_cast<const char*>(data), size), "plan.yaml"));
  } catch (const fairway::Error& error) {
    require(error.kind() == fairway::ErrorKind::kBadInput);
    require(std::string(error.what()).starts_with("plan.yaml"));
  }
  return 0;
}
