// What is known of a family of devices before anything is measured on this machine: which kernel family suits which
// batch, by the tokens of a call.
#pragma once

#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace fairway::select {

// Calls of up to batch_max tokens form a bucket, for which `kernel` with panels of tile_n columns is the first choice.
struct BatchRule {
  int batch_max;
  std::string_view bucket;  // "decode", "prefill4", "base", "large_batch"
  std::string_view kernel;  // kernel family
  int tile_n;
};

inline constexpr int kNoBatchLimit = std::numeric_limits<int>::max();

// The thresholds that the founding documents give for the Apple M4 Max. No row runs there yet.
inline constexpr BatchRule kM4MaxThresholds[] = {
    {1, "decode", "moe_trellis_swiglu_decode", 64},
    {16, "prefill4", "moe_trellis_swiglu_prefill4", 64},
    {32, "base", "moe_trellis_swiglu", 64},
    {kNoBatchLimit, "large_batch", "moe_trellis_swiglu_large_batch", 128},
};

// Processors. With 64 experts and more, a call of many tokens gives most experts a few and some many, so one row must
// serve groups of all sizes: measured, results/selection_*.json.
inline constexpr BatchRule kCpuThresholds[] = {
    {1, "decode", "moe_trellis_swiglu_decode", 128},
    {16, "prefill4", "moe_trellis_swiglu_grouped", 128},
    {32, "base", "moe_trellis_swiglu_grouped", 128},
    {kNoBatchLimit, "large_batch", "moe_trellis_swiglu_grouped", 128},
};

struct DeviceProfile {
  std::string_view family;           // "M4", "cpu_avx512", ...
  std::span<const BatchRule> rules;  // ascending batch_max, the last without limit
  // Experts' widths decide before the batch does: mostly 2 bits, or 2 bits mixed with 3 or 4, have kernels of their
  // own.
  bool width_rules;
  // A single token with a bit tuple that a decode kernel was compiled for gets that kernel, if it is available.
  bool specialized_decode;
  // Hidden sizes from here on accumulate in fp32; 0: on request only. Processor rows sum int8 products exactly and
  // blocks in fp32 whatever they are called, so the rule has nothing to add there.
  int fp32_hidden;
};

// All profiles, the documented default (M4) first.
std::span<const DeviceProfile> device_profiles();
// The profile of a family such as "M4", or of a device of it such as "M4 Max"; Error(kUsage) lists the families.
const DeviceProfile& device_profile(std::string_view device);
// The profile of this machine's processor.
const DeviceProfile& this_device();
// Name of this machine's processor: what CPUID says.
std::string this_device_name();

// The rule for a call of so many tokens, >= 1.
const BatchRule& rule_for_batch(const DeviceProfile& profile, int batch_size);

}  // namespace fairway::select
