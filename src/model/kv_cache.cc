// The cache of one sequence: growth and truncation.
#include <fmt/format.h>

#include <algorithm>

#include "fairway/error.h"
#include "model/model.h"
#include "model/weights.h"

namespace fairway::model {
namespace {

constexpr int kMinGrowth = 256;  // positions

int rope_dim(const formats::ModelConfig& config) {
  return config.attention == formats::AttentionKind::kMla ? config.qk_rope_head_dim : config.head_dim;
}

}  // namespace

std::int64_t cache_row_elems(const formats::ModelConfig& config) {
  if (config.attention == formats::AttentionKind::kMla) return config.kv_lora_rank + config.qk_rope_head_dim;
  return std::int64_t{2} * config.num_key_value_heads * config.head_dim;
}

KvCache::KvCache(const formats::ModelConfig& config)
    : layers_(config.num_hidden_layers),
      row_elems_(cache_row_elems(config)),
      max_positions_(config.max_position_embeddings),
      rope_(rope_dim(config), config.rope_theta) {}

void KvCache::truncate(int length) {
  length_ = std::clamp(length, 0, length_);
}

void KvCache::reserve(int positions) {
  if (positions > max_positions_) {
    throw Error(ErrorKind::kUsage, fmt::format("{} positions do not fit: max_position_embeddings of the model is {}",
                                               positions, max_positions_));
  }
  if (positions <= room_) return;
  for (auto& layer : layers_) {
    layer.reserve(static_cast<std::size_t>(positions) * row_elems_);
    // Pages of unused room are touched only when a position is written, so only the address space is taken.
  }
  rope_.grow(positions);
  room_ = positions;
}

void KvCache::grow_room(int positions) {
  if (positions > room_) {
    const std::int64_t stepped = room_ + std::max<std::int64_t>(kMinGrowth, room_ / 8);
    reserve(static_cast<int>(std::clamp<std::int64_t>(stepped, positions, std::max(positions, max_positions_))));
  }
  const std::size_t elems = static_cast<std::size_t>(positions) * row_elems_;
  if (layers_.back().size() >= elems) return;  // all layers grow together, and each of them asks
  for (auto& layer : layers_) layer.resize(elems);
}

std::int64_t KvCache::bytes() const {
  std::int64_t total = 0;
  for (const auto& layer : layers_) total += static_cast<std::int64_t>(layer.capacity() * sizeof(float));
  return total;
}

}  // namespace fairway::model
