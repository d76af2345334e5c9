// kv_b_proj of multi-head latent attention in 8 bits, rounded for the latents that it will meet.
#pragma once

#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"
#include "formats/config.h"
#include "kernels/common/context.h"
#include "model/weights.h"
#include "moe/counters.h"
#include "select/select.h"

namespace fairway::model {

class UpProjectionRounder {
 public:
  // threads: as of ThreadPool.
  UpProjectionRounder(const formats::ModelConfig& config, int threads);

  // w.kv_b, whose data is there, as quantize_rows_int8() of attention_mla makes it: weights [rows, latent], scales
  // [rows]. Latents are taken to have the second moments that kv_a_proj gives them for normalised hidden states whose
  // components are independent; of trained models these are far from alike in all directions.
  void quantize(const MlaWeights& w, const std::vector<float>& attention_input_norm, signed char* weights,
                float* scales);

 private:
  std::vector<double> latent_moments(const MlaWeights& w, const std::vector<float>& attention_input_norm);

  const formats::ModelConfig& config_;
  backend::ThreadPool pool_;
  backend::Workspace workspace_;
  kernels::KernelContext context_;
  moe::Counters counters_;
  select::Policy policy_;
};

}  // namespace fairway::model
