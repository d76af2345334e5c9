// The work folder of a quantization job: one file per finished matrix, so that a job that was killed goes on.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quantize/quantized_linear.h"

namespace fairway::quantize {

// What a finished matrix looks like, without its content.
struct PartShape {
  int in = 0, out = 0, bits = 0;  // padded sizes
  codec::Codebook codebook = codec::Codebook::kMul1;
  bool bias = false;
};

// Holds job.json, PREFIX.safetensors for every finished matrix, and a lock. A part is written beside its name, flushed
// and renamed, carries a SHA-256 of its content and of the job, and is read back before it counts: after a kill or a
// power cut at any moment the store has exactly the parts that were finished. All members may be called from several
// threads at once, except remove_all().
class PartStore {
 public:
  // `fingerprint` is everything that changes the bytes of a part: source files, their sizes and hashes, options. A new
  // folder is made for it; an existing one must have the same (Error(kUsage) naming the first difference), unless
  // `force` discards the parts of the other job. Unfinished and damaged files are removed and listed in discarded().
  // Error(kUsage) if the folder is in use or holds anything that no store writes, Error(kResource) if it cannot be
  // written.
  PartStore(std::filesystem::path folder, const nlohmann::ordered_json& fingerprint, bool force);
  ~PartStore();
  PartStore(const PartStore&) = delete;
  PartStore& operator=(const PartStore&) = delete;

  bool has(const std::string& prefix) const;
  std::size_t size() const;  // finished matrices

  // `facts`: small figures about the matrix. A second put of a prefix replaces the first. Error(kUsage) if a vector's
  // length does not fit in, out and bits, Error(kResource) if it cannot be written.
  void put(const QuantizedLinear& linear, const nlohmann::ordered_json& facts);
  QuantizedLinear load(const std::string& prefix) const;          // Error(kBadInput) if absent or damaged
  nlohmann::ordered_json facts(const std::string& prefix) const;  // as given to put()

  PartShape shape(const std::string& prefix) const;  // Error(kBadInput) if absent, as of facts()

  const std::filesystem::path& folder() const;
  static std::string job_of(const nlohmann::ordered_json& fingerprint);  // SHA-256 of the fingerprint, in hex
  const std::string& job() const;                                        // that of its own
  const std::vector<std::string>& discarded() const;                     // "PATH: reason" of files that opening removed

  void remove_all();  // parts, job and folder; the store cannot be used any more

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway::quantize
