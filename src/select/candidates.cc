// Legality and first choice at the level of a call.
#include "select/candidates.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "fairway/error.h"
#include "select/allow.h"
#include "select/thresholds.h"

namespace fairway::select {
namespace {

using kernels::Backend;
using kernels::KernelRow;
using kernels::MoeSwigluRow;
using kernels::RowUse;
using kernels::Tile;

bool reads_layer(const KernelRow& row, const MoeLayerTraits& traits) {
  const bool any_bits = row.bits == kernels::BitTuple{};
  const bool fits = std::all_of(traits.mix.begin(), traits.mix.end(),
                                [&](const TupleShare& part) { return any_bits || part.bits == row.bits; });
  return row.weights == kernels::WeightKind::kTrellis && (traits.codebooks & ~row.codebooks) == 0 && fits;
}

// Tokens that the largest groups of a call have: all of them in a layer without routed experts.
bool groups_are_alike(const MoeLayerTraits& traits, int tokens) {
  return tokens == 1 || traits.experts == 0;
}

// The row for groups of so many tokens each.
Choice<MoeSwigluRow> by_tokens(const Policy& policy, const MoeLayerTraits& traits, int tokens) {
  const kernels::BitTuple bits = traits.mix.empty() ? kernels::BitTuple{} : traits.mix.front().bits;
  return select_moe_swiglu(policy, {tokens, bits, traits.codebooks});
}

// Groups of so many rows and fewer are multiplied from registers by every body that can: their panels have no width.
constexpr int kRegisterRows = 4;

// Tiles that a tuner may turn for the groups of a call, without those that change nothing there: a tile holds all rows
// of the largest group, or no group makes a panel.
std::vector<Tile> tiles_of(const KernelRow& row, int largest_group) {
  std::vector<Tile> tiles{row.tile};
  const bool decode = row.use == RowUse::kByRows && row.m_max == 1;
  if (row.tile == Tile{} || decode || largest_group <= kRegisterRows) return tiles;
  const auto works_like = [&](const Tile& a, const Tile& b) {
    return std::min(a.m, largest_group) == std::min(b.m, largest_group) && a.n == b.n && a.workers == b.workers;
  };
  for (const Tile& tile : {Tile{row.tile.m, row.tile.n == 128 ? 64 : 128, 1}, Tile{32, row.tile.n, 1},
                           Tile{64, row.tile.n, 1}, Tile{256, row.tile.n, 1}}) {
    const auto like_it = [&](const Tile& other) { return works_like(tile, other); };
    if (std::none_of(tiles.begin(), tiles.end(), like_it)) tiles.push_back(tile);
  }
  return tiles;
}

// Rows of the largest group that is not rare.
int largest_group(const MoeLayerTraits& traits, int tokens) {
  constexpr double kRare = 0.02;  // expected groups of that size
  int largest = 1;
  for (const GroupSize& group : expected_groups(traits, tokens)) {
    if (group.experts >= kRare) largest = std::max(largest, group.m);
  }
  return largest;
}

}  // namespace

std::string MoeCandidate::name() const {
  if (tile == row->info.tile) return row->info.id;
  return fmt::format("{}/m{}n{}w{}", row->info.id, tile.m, tile.n, tile.workers);
}

MoeCandidate parse_candidate(const std::string& name) {
  const MoeSwigluRow* best = nullptr;
  for (const MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    const std::string_view id = row.info.id;
    const bool prefix = name.starts_with(id) && (name.size() == id.size() || name[id.size()] == '/');
    if (prefix && (best == nullptr || id.size() > std::string_view(best->info.id).size())) best = &row;
  }
  if (best == nullptr) throw Error(ErrorKind::kUsage, fmt::format("kernel row '{}' does not exist", name));
  const std::string_view rest = std::string_view(name).substr(std::string_view(best->info.id).size());
  if (rest.empty()) return {best, best->info.tile};
  Tile tile;
  const char* at = rest.data() + 1;
  const char* const end = rest.data() + rest.size();
  const auto number = [&](char letter, int& value) {
    if (at == end || *at != letter) return false;
    const auto [next, error] = std::from_chars(at + 1, end, value);
    at = next;
    return error == std::errc();
  };
  if (!number('m', tile.m) || !number('n', tile.n) || !number('w', tile.workers) || at != end ||
      !kernels::is_legal_tile(tile)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("'{}' is no tile of {}: expected /m<rows>n<64 or 128>w<1 or 2>", rest, best->info.id));
  }
  return {best, tile};
}

Fallback default_fallback(const Policy& policy, const MoeLayerTraits& traits, int tokens) {
  return by_tokens(policy, traits, tokens).fallback;
}

MoeCandidate default_candidate(const Policy& policy, const MoeLayerTraits& traits, int tokens) {
  const MoeSwigluRow* row = by_tokens(policy, traits, tokens).row;
  if (policy.kernel.empty() && !groups_are_alike(traits, tokens)) {
    const MoeSwigluRow* by_call = select_moe_by_call(policy, row->info, traits.codebooks);
    if (by_call != nullptr) row = by_call;
  }
  return {row, row->info.tile};
}

std::vector<MoeCandidate> legal_candidates(const Policy& policy, const MoeLayerTraits& traits, int tokens) {
  std::vector<MoeCandidate> legal{default_candidate(policy, traits, tokens)};
  if (!policy.kernel.empty()) return legal;
  const KernelRow& first = legal.front().row->info;
  for (const MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    const KernelRow& info = row.info;
    const bool named_only = info.use == RowUse::kOnRequest || (info.backend == Backend::kCpuRef && &info != &first);
    if (&info == &first || named_only || info.activations != first.activations) continue;
    if (machine_and_wish_allow(policy, info) && activations_allow(policy.activations, info.activations) &&
        reads_layer(info, traits)) {
      legal.push_back({&row, info.tile});
    }
  }
  return legal;
}

std::vector<MoeCandidate> promising_candidates(const Policy& policy, const MoeLayerTraits& traits, int tokens,
                                               int threads, double slack) {
  std::vector<MoeCandidate> legal = legal_candidates(policy, traits, tokens);
  if (legal.size() == 1 && !policy.kernel.empty()) return legal;
  struct Priced {
    MoeCandidate candidate;
    double ms;
  };
  const int largest = largest_group(traits, tokens);
  std::vector<Priced> priced;
  double best = 0;
  for (const MoeCandidate& row : legal) {
    for (const Tile& tile : tiles_of(row.row->info, largest)) {
      const MoeCandidate candidate{row.row, tile};
      const double ms = predicted_ms(candidate, traits, tokens, threads);
      if (priced.empty() || ms < best) best = ms;
      priced.push_back({candidate, ms});
    }
  }
  const Priced first = priced.front();
  std::erase_if(priced, [&](const Priced& p) { return p.candidate == first.candidate || p.ms > best * (1 + slack); });
  std::stable_sort(priced.begin(), priced.end(), [](const Priced& a, const Priced& b) { return a.ms < b.ms; });
  std::vector<MoeCandidate> promising{first.candidate};
  for (const Priced& p : priced) promising.push_back(p.candidate);
  return promising;
}

}  // namespace fairway::select
