// What loading a model to a CUDA device can begin with before the model's files have been looked at.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <thread>
#include <vector>

namespace fairway::model {

// Threads open the device's context, which takes some tenths of a second, and ask the system for the weight files in
// order and many pieces at once: headers and scale vectors are read in an order of their own, a page here and a page
// there, and the disk would wait for each. Nothing fails here; whoever needs the device or the files says why it
// cannot. Files that take more than half of the available memory are left alone: they would drive each other out.
class EarlyStart {
 public:
  EarlyStart(const std::filesystem::path& model_dir, int device);
  ~EarlyStart();  // leaves out what has not been asked for
  EarlyStart(const EarlyStart&) = delete;
  EarlyStart& operator=(const EarlyStart&) = delete;

 private:
  struct Piece {
    int file;  // descriptor
    std::int64_t begin, bytes;
  };
  void open_files(const std::filesystem::path& model_dir);
  void read();

  std::vector<int> files_;
  std::vector<Piece> pieces_;
  std::int64_t bytes_ = 0;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fairway::model
