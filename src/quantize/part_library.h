// Coded matrices that outlive a job, for other jobs with the same source and options but other widths.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "quantize/part_store.h"

namespace fairway::quantize {

// No step of coding looks at the width of another matrix, so the part of a matrix at one width is the same in every
// model made from one source with one set of options. FOLDER/HASH/BITS is a part store, HASH being the start of the
// SHA-256 of `fingerprint`: jobs with other sources or options keep apart. Threads as for PartStore.
class PartLibrary {
 public:
  // `fingerprint`: everything that changes the bytes of a part but its width. Only stores of `widths` are opened.
  // Errors of PartStore.
  PartLibrary(const std::filesystem::path& folder, const nlohmann::ordered_json& fingerprint,
              const std::set<int>& widths);

  bool has(const std::string& prefix, int bits) const;
  // Puts the part into `parts`. Error(kBadInput) if it is absent or damaged.
  void copy_to(PartStore& parts, const std::string& prefix, int bits) const;
  void put(const QuantizedLinear& linear, const nlohmann::ordered_json& facts);

 private:
  PartStore& store(int bits) const;  // Error(kUsage) for a width that was not opened

  std::map<int, std::unique_ptr<PartStore>> stores_;
};

}  // namespace fairway::quantize
