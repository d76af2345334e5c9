// Writes the weights of a model directory: one safetensors file, or shards with an index when they are many bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/safetensors_writer.h"

namespace fairway::formats {

constexpr std::int64_t kShardBytes = 4'000'000'000;  // what Hugging Face tools cut at, roughly

class ShardWriter {
 public:
  // model.safetensors, or model-00001-of-0000N.safetensors of at most `max_shard_bytes` of data each (a larger tensor
  // has a shard of its own) and model.safetensors.index.json. Tensors stand in the order of `specs`.
  ShardWriter(std::filesystem::path directory, std::vector<TensorSpec> specs,
              std::int64_t max_shard_bytes = kShardBytes);
  ~ShardWriter();  // removes what it wrote if finish() was not reached
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // Bytes of the tensors in turn; one call's bytes belong to one tensor. Errors as of SafetensorsWriter.
  void write(std::span<const std::uint8_t> bytes);
  void finish();

  const std::string& current_file() const { return file_; }
  double share() const;  // of all bytes that are written

 private:
  struct Shard {
    std::size_t begin, end;  // tensors
    std::int64_t bytes;
  };
  void plan(std::int64_t max_shard_bytes);
  std::string name_of(std::size_t shard) const;
  void open();
  void close();

  std::filesystem::path directory_;
  std::vector<TensorSpec> specs_;
  std::vector<Shard> shards_;
  std::size_t shard_ = 0;      // being written, or next
  std::int64_t in_shard_ = 0;  // bytes of it
  std::int64_t total_ = 0, done_ = 0;
  std::string file_;  // name of the shard being written
  std::unique_ptr<SafetensorsWriter> writer_;
  std::vector<std::filesystem::path> created_;
};

}  // namespace fairway::formats
