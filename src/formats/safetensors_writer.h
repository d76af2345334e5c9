// Writes safetensors files: header first, then tensor bytes streamed in the order they were declared.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace fairway::formats {

struct TensorSpec {
  std::string name;
  TensorType type;
  std::vector<std::int64_t> shape;
};

// The file appears under its final name only when finish() succeeds (written beside it, flushed, renamed).
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs);
  ~SafetensorsWriter();  // removes the unfinished file if finish() was not reached
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Appends bytes of the current tensor; tensors are filled in the order of `specs`. Throws on any I/O error with the
  // path and the system's reason, and on more bytes than declared.
  void write(std::span<const std::uint8_t> bytes);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fairway::formats
