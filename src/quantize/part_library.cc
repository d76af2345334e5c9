// One part store for each width.
#include "quantize/part_library.h"

#include <fmt/format.h>

#include "fairway/error.h"

namespace fairway::quantize {
namespace {

constexpr std::size_t kHashDigits = 16;

}  // namespace

PartLibrary::PartLibrary(const std::filesystem::path& folder, const nlohmann::ordered_json& fingerprint,
                         const std::set<int>& widths) {
  const std::filesystem::path job = folder / PartStore::job_of(fingerprint).substr(0, kHashDigits);
  for (const int bits : widths) {
    nlohmann::ordered_json of_width = fingerprint;
    of_width["bits"] = bits;
    stores_[bits] = std::make_unique<PartStore>(job / std::to_string(bits), of_width, /*force=*/false);
  }
}

bool PartLibrary::has(const std::string& prefix, int bits) const {
  const auto at = stores_.find(bits);
  return at != stores_.end() && at->second->has(prefix);
}

void PartLibrary::copy_to(PartStore& parts, const std::string& prefix, int bits) const {
  const PartStore& from = store(bits);
  parts.put(from.load(prefix), from.facts(prefix));
}

void PartLibrary::put(const QuantizedLinear& linear, const nlohmann::ordered_json& facts) {
  store(linear.bits).put(linear, facts);
}

PartStore& PartLibrary::store(int bits) const {
  const auto at = stores_.find(bits);
  if (at != stores_.end()) return *at->second;
  throw Error(ErrorKind::kUsage, fmt::format("the library of parts was not opened for {} bits", bits));
}

}  // namespace fairway::quantize
