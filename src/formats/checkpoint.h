// All tensors of a model directory by name, whether one file, shards with an index, or shards without one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "codec/trellis.h"
#include "formats/config.h"
#include "formats/safetensors.h"
#include "kernels/common/matrix.h"

namespace fairway::formats {

// fp8 matrices that a reader wants as floats, times their scales; no kernel runs fp8 itself.
struct WidenedMatrices {
  Fp8Block block;
  bool check_only = false;  // scales are read and checked, values are not: the matrix has no data
  std::vector<std::vector<float>> values;
};

class Checkpoint {
 public:
  // Opens every *.safetensors of the directory. If model.safetensors.index.json exists it must agree with the files.
  // Duplicate tensor names across files are an error.
  static Checkpoint open(const std::filesystem::path& model_dir);

  const std::filesystem::path& directory() const;
  const TensorView* find(std::string_view name) const;     // nullptr if absent
  const TensorView& require(std::string_view name) const;  // Error(kBadInput) if absent, naming directory and tensor
  std::vector<const TensorView*> tensors() const;          // sorted by name
  std::filesystem::path file_of(const TensorView& tensor) const;
  std::int64_t file_bytes() const;  // sum over the files
  void release() const;             // of all files, as MappedFile::release

  // Small vectors as float, whatever their stored float type. `count` < 0 accepts any length; otherwise it is checked.
  // Non-finite values are an error.
  std::vector<float> read_vector(std::string_view name, std::int64_t count) const;

  // The linear layer at module key `prefix` ("model.layers.0.mlp.gate_proj"), of `in` inputs and `out` outputs:
  // EXL3 (trellis with suh or su, svh or sv, flag values checked, padding allowed) or plain `prefix.weight`.
  // The views point into the mapping; scale vectors and bias are converted to float and owned by this checkpoint's
  // shared storage, so they live as long as it does. `allow_padded_out` is for lm_head, whose vocabulary may be padded
  // also in plain form. If both forms are present the trellis wins. Several threads may call it at once.
  // An fp8 weight is Error(kUnsupported), unless there is `widened`: then the matrix is a view of floats added to it.
  kernels::LinearWeights linear(const std::string& prefix, int in, int out, bool allow_padded_out = false,
                                WidenedMatrices* widened = nullptr) const;
  bool has_linear(const std::string& prefix) const;
  bool has_trellis(const std::string& prefix) const;  // trellis, suh or su, svh or sv are all present

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

 private:
  Checkpoint();
  struct State;
  std::shared_ptr<State> state_;
  friend class LinearReader;
};

// Every problem of a model directory's config.json and tensors, one line each, for `inspect`: opens what it can and
// goes on. Empty if the model loader would accept them. At most 50 problems and a line that counts the rest.
std::vector<std::string> check_model_dir(const std::filesystem::path& model_dir);

}  // namespace fairway::formats
