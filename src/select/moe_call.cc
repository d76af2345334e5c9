// Describing layers, and the binomial sizes of their groups.
#include "select/moe_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "fairway/error.h"

namespace fairway::select {
namespace {

std::uint64_t combine(std::uint64_t hash, std::uint64_t value) {  // FNV-1a over eight bytes at a time
  return (hash ^ value) * 0x100000001B3u;
}

std::uint64_t hash_of(const MoeLayerTraits& t) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const int value : {t.hidden, t.intermediate, t.experts, t.top_k, t.always_on, static_cast<int>(t.codebooks)}) {
    hash = combine(hash, static_cast<std::uint64_t>(value));
  }
  // Every width has code of its own in every row and costs about the same; what widths change is the bytes read.
  hash = combine(hash, static_cast<std::uint64_t>(std::lround(4 * t.mean_bits())));
  hash = combine(hash, t.mix.size() == 1);
  return hash == 0 ? 1 : hash;
}

MoeLayerTraits finished(MoeLayerTraits traits) {
  double total = 0;
  for (const TupleShare& part : traits.mix) total += part.share;
  for (TupleShare& part : traits.mix) part.share /= total;
  std::sort(traits.mix.begin(), traits.mix.end(), [](const TupleShare& a, const TupleShare& b) {
    return a.share != b.share ? a.share > b.share : a.bits < b.bits;
  });
  traits.key = hash_of(traits);
  return traits;
}

}  // namespace

double MoeLayerTraits::mean_bits() const {
  double bits = 0;
  for (const TupleShare& part : mix) bits += part.share * (part.bits.gate + part.bits.up + part.bits.down) / 3.0;
  return bits;
}

std::vector<int> MoeLayerTraits::widths() const {
  std::set<int> all;
  for (const TupleShare& part : mix) all.insert({part.bits.gate, part.bits.up, part.bits.down});
  return {all.begin(), all.end()};
}

std::string MoeLayerTraits::mix_text() const {
  constexpr std::size_t kNamed = 3;
  std::string text;
  for (std::size_t i = 0; i < mix.size() && i < kNamed; ++i) {
    const kernels::BitTuple& bits = mix[i].bits;
    if (i > 0) text += ", ";
    if (mix.size() > 1) text += fmt::format("{:.0f}% ", 100 * mix[i].share);
    text += fmt::format("({},{},{})", bits.gate, bits.up, bits.down);
  }
  if (mix.size() > kNamed) text += fmt::format(" and {} more", mix.size() - kNamed);
  return text.empty() ? "not trellis" : text;
}

MoeLayerTraits describe_moe_layer(const std::vector<kernels::ExpertWeights>& experts,
                                  const std::vector<kernels::ExpertWeights>& always_on, int top_k, int hidden) {
  MoeLayerTraits traits;
  traits.hidden = hidden;
  traits.experts = static_cast<int>(experts.size());
  traits.top_k = experts.empty() ? 0 : top_k;
  traits.always_on = static_cast<int>(always_on.size());
  if (!experts.empty() || !always_on.empty()) {
    traits.intermediate = (experts.empty() ? always_on : experts).front().gate.out;
  }
  std::map<kernels::BitTuple, double> tuples;
  for (const auto* list : {&experts, &always_on}) {
    for (const kernels::ExpertWeights& expert : *list) {
      if (!expert.is_trellis()) continue;
      tuples[expert.bits()] += 1;
      for (const kernels::LinearWeights* weights : {&expert.gate, &expert.up, &expert.down}) {
        traits.codebooks |= kernels::codebook_bit(weights->trellis().codebook);
      }
    }
  }
  for (const auto& [bits, count] : tuples) traits.mix.push_back({bits, count});
  return finished(std::move(traits));
}

MoeLayerTraits moe_traits(int hidden, int intermediate, int experts, int top_k, int always_on, std::uint8_t codebooks,
                          std::vector<TupleShare> mix) {
  const double shares =
      std::accumulate(mix.begin(), mix.end(), 0.0, [](double sum, const TupleShare& part) { return sum + part.share; });
  const bool routed = experts > 0 && top_k > 0 && top_k <= experts;
  if (hidden < 1 || intermediate < 1 || always_on < 0 || (!routed && (experts != 0 || top_k != 0 || always_on == 0)) ||
      !(shares > 0) || !std::isfinite(shares)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("MoE layer of hidden size {}, {} experts of {}, top {}, {} always on and {} bit tuples "
                            "of shares that add up to {}; expected sizes of 1 or more, at most as many experts per "
                            "token as there are, and a mix",
                            hidden, experts, intermediate, top_k, always_on, mix.size(), shares));
  }
  MoeLayerTraits traits{hidden, intermediate, experts, top_k, always_on, codebooks, std::move(mix), 0};
  return finished(std::move(traits));
}

std::vector<GroupSize> expected_groups(const MoeLayerTraits& traits, int tokens) {
  std::vector<GroupSize> groups;
  if (traits.experts > 0) {
    const double p = static_cast<double>(traits.top_k) / traits.experts;
    // Binomial(tokens, p) by logarithms, each term from the one before: the tails of a thousand tokens underflow
    // otherwise. Not by lgamma, which writes a global, and threads come here at once.
    double log_share = tokens * std::log1p(-p);
    for (int m = 1; m <= tokens; ++m) {
      double share = 1;
      if (p < 1) {
        log_share += std::log((tokens - m + 1.0) / m) + std::log(p) - std::log1p(-p);
        share = std::exp(log_share);
      } else if (m < tokens) {
        continue;
      }
      if (share * traits.experts >= 1e-3) groups.push_back({m, share * traits.experts});
    }
  }
  if (traits.always_on > 0) groups.push_back({tokens, static_cast<double>(traits.always_on)});
  return groups;
}

}  // namespace fairway::select
