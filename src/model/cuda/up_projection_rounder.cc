// Moments of the latents, and the rounding, in parallel.
#include "model/cuda/up_projection_rounder.h"

#include <algorithm>

#include "kernels/attention_mla/cuda/quantize_rows.h"
#include "kernels/dense_linear/dense_linear.h"
#include "model/linear_apply.h"

namespace fairway::model {
namespace {

constexpr std::size_t kComponentsAtOnce = 512;  // of hidden states: 4 MB for 2048
constexpr int kRowsPerTask = 64;                // of kv_b_proj
constexpr int kLatentsPerTask = 16;             // rows of moments

}  // namespace

UpProjectionRounder::UpProjectionRounder(const formats::ModelConfig& config, int threads)
    : config_(config), pool_(threads), context_{pool_, workspace_}, policy_(select::make_policy("", "fp32", "")) {}

// kv_a_proj is seen through what it does with every component of the hidden states by itself.
std::vector<double> UpProjectionRounder::latent_moments(const MlaWeights& w,
                                                        const std::vector<float>& attention_input_norm) {
  const std::size_t hidden = static_cast<std::size_t>(config_.hidden_size);
  const std::size_t latent = static_cast<std::size_t>(config_.kv_lora_rank);
  const std::size_t width = latent + static_cast<std::size_t>(config_.qk_rope_head_dim);
  std::vector<float> outputs(hidden * width);
  for (std::size_t first = 0; first < hidden; first += kComponentsAtOnce) {
    const std::size_t count = std::min(kComponentsAtOnce, hidden - first);
    std::vector<float> components(count * hidden, 0.0f);
    for (std::size_t i = 0; i < count; ++i) components[i * hidden + first + i] = attention_input_norm[first + i];
    apply_linear(w.kv_a, components.data(), config_.hidden_size, static_cast<int>(count), &outputs[first * width],
                 static_cast<std::int64_t>(width), {policy_, context_, counters_});
  }
  std::vector<double> moments(latent * latent, 0.0);
  for_row_blocks(pool_, config_.kv_lora_rank, kLatentsPerTask, [&](int begin, int end) {
    for (std::size_t h = 0; h < hidden; ++h) {
      const float* const row = &outputs[h * width];
      for (std::size_t i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        const double value = row[i];
        for (std::size_t j = 0; j <= i; ++j) moments[i * latent + j] += value * row[j];
      }
    }
  });
  for (std::size_t i = 0; i < latent; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      moments[i * latent + j] *= static_cast<double>(w.kv_a_norm[i]) * static_cast<double>(w.kv_a_norm[j]);
      moments[j * latent + i] = moments[i * latent + j];
    }
  }
  return moments;
}

void UpProjectionRounder::quantize(const MlaWeights& w, const std::vector<float>& attention_input_norm,
                                   signed char* weights, float* scales) {
  const int columns = w.kv_b.in;
  const kernels::RoundingFeedback feedback(latent_moments(w, attention_input_norm), columns);
  for_row_blocks(pool_, w.kv_b.out, kRowsPerTask, [&](int begin, int end) {
    std::vector<float> rows(static_cast<std::size_t>(end - begin) * static_cast<std::size_t>(columns));
    for (int r = begin; r < end; ++r) {
      kernels::read_dense_row(w.kv_b, r,
                              &rows[static_cast<std::size_t>(r - begin) * static_cast<std::size_t>(columns)]);
    }
    kernels::quantize_rows_int8(rows.data(), end - begin, feedback,
                                weights + static_cast<std::int64_t>(begin) * columns, scales + begin);
  });
}

}  // namespace fairway::model
