// The directory that a command writes as a whole: it appears under its name complete or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "quantize/folder_lock.h"

namespace fairway::quantize {

// Whether a finished model can be written to `out`, before anything expensive is done: Error(kUsage) if it lies in the
// source, around it or around the work folder, if it exists and is not empty and `force` is false, or if `force` would
// replace something that is no model directory; Error(kResource) if the folder around it cannot be written.
void check_destination(const std::filesystem::path& source, const std::filesystem::path& work,
                       const std::filesystem::path& out, bool force);

class Destination {
 public:
  // Makes OUT.assembling beside OUT. What an earlier run left there is removed; a model that it was about to replace is
  // put back first. Errors as of check_destination, and Error(kUsage) if another process is at it.
  explicit Destination(const std::filesystem::path& out);
  ~Destination();  // removes everything that publish() did not move
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  std::filesystem::path folder() const { return staging_ / "model"; }  // to write into
  void require_space(std::int64_t bytes) const;  // Error(kResource) naming folder, bytes needed and free

  // Beside a finished `out`: what a run left that was killed between its rename and its end.
  static void remove_leftovers(const std::filesystem::path& out);

  // One rename. With `force` an existing model is moved away first, and removed afterwards.
  void publish(bool force);

 private:
  void clean();

  std::filesystem::path out_, staging_;
  std::unique_ptr<FolderLock> lock_;
};

}  // namespace fairway::quantize
