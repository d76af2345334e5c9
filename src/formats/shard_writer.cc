// Cuts a list of tensors into shards and writes them one after the other.
#include "formats/shard_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "formats/durable_file.h"
#include "formats/exl3_storage.h"
#include "formats/json_text.h"

namespace fairway::formats {

ShardWriter::ShardWriter(std::filesystem::path directory, std::vector<TensorSpec> specs, std::int64_t max_shard_bytes)
    : directory_(std::move(directory)), specs_(std::move(specs)) {
  plan(max_shard_bytes);
}

ShardWriter::~ShardWriter() {
  writer_.reset();
  std::error_code ignored;  // an unwinding destructor has nobody to tell
  for (const auto& path : created_) std::filesystem::remove(path, ignored);
}

void ShardWriter::plan(std::int64_t max_shard_bytes) {
  shards_.push_back({0, 0, 0});
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const std::int64_t bytes = tensor_bytes(specs_[i]);
    if (shards_.back().bytes > 0 && shards_.back().bytes + bytes > max_shard_bytes) shards_.push_back({i, i, 0});
    shards_.back().end = i + 1;
    shards_.back().bytes += bytes;
    total_ += bytes;
  }
}

std::string ShardWriter::name_of(std::size_t shard) const {
  if (shards_.size() == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards_.size());
}

void ShardWriter::open() {
  const auto first = specs_.begin() + static_cast<std::ptrdiff_t>(shards_[shard_].begin);
  const auto last = specs_.begin() + static_cast<std::ptrdiff_t>(shards_[shard_].end);
  file_ = name_of(shard_);
  writer_ = std::make_unique<SafetensorsWriter>(directory_ / file_, std::vector<TensorSpec>(first, last));
  created_.push_back(directory_ / file_);
  in_shard_ = 0;
}

void ShardWriter::close() {
  writer_->finish();
  writer_.reset();
  ++shard_;
}

void ShardWriter::write(std::span<const std::uint8_t> bytes) {
  if (bytes.empty()) return;
  if (writer_ != nullptr && in_shard_ == shards_[shard_].bytes && shard_ + 1 < shards_.size()) close();
  if (writer_ == nullptr) open();
  writer_->write(bytes);
  in_shard_ += static_cast<std::int64_t>(bytes.size());
  done_ += static_cast<std::int64_t>(bytes.size());
}

void ShardWriter::finish() {
  while (shard_ < shards_.size()) {
    if (writer_ == nullptr) open();  // a shard without bytes
    close();
  }
  if (shards_.size() > 1) {
    nlohmann::ordered_json files = nlohmann::ordered_json::object();
    auto& entries = files.get_ref<nlohmann::ordered_json::object_t&>();
    entries.reserve(specs_.size());  // appended without the search for an equal key: the shards' writers checked names
    for (std::size_t s = 0; s < shards_.size(); ++s) {
      for (std::size_t i = shards_[s].begin; i < shards_[s].end; ++i) entries.push_back({specs_[i].name, name_of(s)});
    }
    const std::filesystem::path index = directory_ / "model.safetensors.index.json";
    write_file_durably(index, json_text({{"metadata", {{"total_size", total_}}}, {"weight_map", std::move(files)}}));
  }
  created_.clear();
}

double ShardWriter::share() const {
  return total_ == 0 ? 1.0 : static_cast<double>(done_) / static_cast<double>(total_);
}

}  // namespace fairway::formats
