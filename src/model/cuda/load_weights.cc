// Every tensor by its place in the model.
#include "model/cuda/load_weights.cuh"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "codec/half.h"
#include "fairway/error.h"
#include "formats/model_layout.h"
#include "kernels/dense_linear/dense_linear.h"
#include "model/cuda/rounding_jobs.h"

namespace fairway::model {
namespace {

using kernels::DenseMatrix;
using kernels::ExpertWeights;
using kernels::LinearWeights;
using kernels::TrellisMatrix;
using kernels::cuda::ExpertRef;
using kernels::cuda::TrellisRef;

constexpr float kBeyondHalves = 65520.0f;  // rounds to infinity

const __half* as_half(const std::uint16_t* bits) {
  return reinterpret_cast<const __half*>(bits);
}

class Loader {
 public:
  Loader(const HostModel& model, kernels::cuda::UpWeight kv_b, WeightStore& store)
      : model_(model), config_(*model.config), kv_b_(kv_b), store_(store) {}

  DeviceWeights load() {
    DeviceWeights w;
    w.embedding = dense(model_.embedding, 1.0f, "model.embed_tokens");
    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
      w.layers.push_back(layer(model_.layers[i], formats::layer_prefix(static_cast<int>(i))));
    }
    w.final_norm = store_.copy_of(model_.final_norm, "model.norm");
    const bool tied = !model_.head.is_trellis() && model_.head.dense().data == model_.embedding.data &&
                      model_.embedding.data != nullptr;
    if (tied) {
      w.head = DeviceLinear{.in = model_.head.in, .out = model_.head.out, .dense = w.embedding};
      w.head.dense.out = model_.head.out;
    } else {
      w.head = linear(model_.head, "lm_head");
    }
    // Last, while other threads read what was left to them.
    if (!rounding_.empty()) round_up_projections(config_, rounding_, store_.device(), [this] { store_.report(); });
    return w;
  }

 private:
  DeviceLayer layer(const LayerWeights& host, const std::string& prefix) {
    DeviceLayer d;
    d.attention_input_norm = floats(host.attention_input_norm, prefix + "input_layernorm");
    d.mlp_input_norm = floats(host.mlp_input_norm, prefix + "post_attention_layernorm");
    if (config_.attention == formats::AttentionKind::kMla) {
      d.mla = mla(host.mla, host.attention_input_norm, prefix + "self_attn.");
    } else {
      d.gqa = gqa(host.gqa, prefix + "self_attn.");
    }
    if (!host.mlp.experts.empty()) d.router = router(host.mlp, prefix + "mlp.gate");
    d.moe = experts(host.mlp, prefix + "mlp.", d.dense);
    return d;
  }

  DeviceMla mla(const MlaWeights& host, const std::vector<float>& input_norm, const std::string& prefix) {
    DeviceMla d;
    if (config_.q_lora_rank > 0) {
      d.q_a = linear(host.q_a, prefix + "q_a_proj");
      d.q_a_norm = floats(host.q_a_norm, prefix + "q_a_layernorm");
    }
    d.q_b = linear(host.q_b, prefix + (config_.q_lora_rank > 0 ? "q_b_proj" : "q_proj"));
    d.kv_a = linear(host.kv_a, prefix + "kv_a_proj_with_mqa");
    d.kv_a_norm = floats(host.kv_a_norm, prefix + "kv_a_layernorm");
    d.kv_b = up_projection(host, input_norm, prefix + "kv_b_proj");
    d.o = linear(host.o, prefix + "o_proj");
    return d;
  }

  DeviceGqa gqa(const GqaWeights& host, const std::string& prefix) {
    DeviceGqa d;
    d.q = linear(host.q, prefix + "q_proj");
    d.k = linear(host.k, prefix + "k_proj");
    d.v = linear(host.v, prefix + "v_proj");
    d.o = linear(host.o, prefix + "o_proj");
    d.q_norm = floats(host.q_norm, prefix + "q_norm");
    d.k_norm = floats(host.k_norm, prefix + "k_norm");
    return d;
  }

  kernels::cuda::MlaUpProjection up_projection(const MlaWeights& layer, const std::vector<float>& input_norm,
                                               const std::string& name) {
    const DenseMatrix& host = layer.kv_b;
    kernels::cuda::MlaUpProjection d{};
    d.heads = config_.num_attention_heads;
    d.nope = config_.qk_nope_head_dim;
    d.v = config_.v_head_dim;
    d.latent = config_.kv_lora_rank;
    d.type = kv_b_;
    if (kv_b_ == kernels::cuda::UpWeight::kHalf) {
      d.weights = up_projection_halves(host, name);
      return d;
    }
    // 8 bits, a scale for every row.
    const std::size_t rows = static_cast<std::size_t>(host.out), count = rows * static_cast<std::size_t>(host.in);
    if (host.data == nullptr) {
      constexpr float kByteDeviation = 73.9f;  // of random bytes
      d.weights = store_.random_words(count, name);
      const std::vector<float> scales(rows, 1.0f / (std::sqrt(static_cast<float>(host.in)) * kByteDeviation));
      d.scales = store_.copy_of<float>(scales, name);
      return d;
    }
    auto* const weights = store_.room_for<signed char>(count, name);
    auto* const scales = store_.room_for<float>(rows, name);
    if (!store_.measuring()) rounding_.push_back({&layer, &input_norm, weights, scales});
    d.weights = weights;
    d.scales = scales;
    return d;
  }

  const void* up_projection_halves(const DenseMatrix& host, const std::string& name) {
    if (host.data == nullptr || host.type == kernels::DenseType::kF16) {
      DenseMatrix halves = host;
      halves.type = kernels::DenseType::kF16;
      return dense(halves, 1.0f / std::sqrt(static_cast<float>(host.in)), name).data;
    }
    const std::size_t columns = static_cast<std::size_t>(host.in);
    std::vector<std::uint16_t> halves(columns * static_cast<std::size_t>(host.out));
    std::vector<float> row(columns);
    for (int r = 0; r < host.out && !store_.measuring(); ++r) {
      kernels::read_dense_row(host, r, row.data());
      for (std::size_t c = 0; c < columns; ++c) {
        if (std::abs(row[c]) >= kBeyondHalves) {
          unsupported(name, fmt::format("has {}, beyond the range of halves; --kv-b-bits 8 takes it", row[c]));
        }
        halves[static_cast<std::size_t>(r) * columns + c] = codec::half_from_float(row[c]);
      }
    }
    return store_.copy_of<std::uint16_t>(halves, name);
  }

  DeviceRouter router(const moe::MoeLayerWeights& host, const std::string& name) {
    if (host.router.is_trellis()) unsupported(name, "is trellis-coded; routers must be plain");
    DeviceRouter d;
    d.weight = dense(host.router.dense(), 1.0f / std::sqrt(static_cast<float>(host.router.in)), name);
    d.params = host.route;
    if (!host.selection_bias.empty()) d.selection_bias = floats(host.selection_bias, name);
    return d;
  }

  kernels::cuda::MoeLayer experts(const moe::MoeLayerWeights& host, const std::string& prefix, DeviceMlp& dense) {
    kernels::cuda::MoeLayer d{};
    d.routed = static_cast<int>(host.experts.size());
    d.shared = static_cast<int>(host.always_on.size());
    d.top_k = host.experts.empty() ? 0 : host.route.top_k;
    d.all_mul1 = true;
    std::vector<ExpertRef> refs;
    const __half* common = nullptr;
    bool shares = true;
    const auto add = [&](const ExpertWeights& e, const std::string& name) {
      if (!e.is_trellis()) unsupported(name, "is not trellis-coded; only trellis-coded experts run on a CUDA device");
      ExpertRef ref{};
      ref.gate = trellis(e.gate, name + ".gate_proj");
      ref.up = trellis(e.up, name + ".up_proj");
      ref.down = trellis(e.down, name + ".down_proj");
      ref.intermediate = e.gate.trellis().out;
      d.hidden = e.gate.trellis().in;
      d.max_intermediate = std::max(d.max_intermediate, ref.intermediate);
      d.widths.include(ref);
      for (const TrellisRef* m : {&ref.gate, &ref.up, &ref.down}) {
        d.all_mul1 &= m->codebook == static_cast<int>(codec::Codebook::kMul1);
      }
      if (refs.empty()) common = ref.gate.suh;
      shares &= ref.gate.suh == common && ref.up.suh == common;
      refs.push_back(ref);
    };
    for (std::size_t e = 0; e < host.experts.size(); ++e) add(host.experts[e], fmt::format("{}experts.{}", prefix, e));
    for (const ExpertWeights& e : host.always_on) {
      add(e, prefix + (host.experts.empty() ? "(dense)" : "shared_experts"));
    }
    if (host.experts.empty() && refs.size() == 1) dense = mlp_of(host.always_on.front(), refs.front());
    d.experts = store_.copy_of<ExpertRef>(refs, prefix + "experts");
    d.common_suh = shares ? common : nullptr;
    return d;
  }

  static DeviceMlp mlp_of(const ExpertWeights& host, const ExpertRef& ref) {
    const auto shaped = [](const LinearWeights& matrix, const TrellisRef& trellis) {
      DeviceLinear d;
      d.in = matrix.in;
      d.out = matrix.out;
      d.is_trellis = true;
      d.trellis = trellis;
      d.trellis_in = matrix.trellis().in;
      d.trellis_out = matrix.trellis().out;
      return d;
    };
    DeviceMlp d{shaped(host.gate, ref.gate), shaped(host.up, ref.up), shaped(host.down, ref.down)};
    d.gate.out = d.gate.trellis_out;
    d.up.out = d.up.trellis_out;
    return d;
  }

  DeviceLinear linear(const LinearWeights& host, const std::string& name) {
    DeviceLinear d;
    d.in = host.in;
    d.out = host.out;
    d.is_trellis = host.is_trellis();
    const float* bias = nullptr;
    if (host.is_trellis()) {
      d.trellis = trellis(host, name);
      d.trellis_in = host.trellis().in;
      d.trellis_out = host.trellis().out;
      bias = host.trellis().bias;
    } else {
      d.dense = dense(host.dense(), 1.0f / std::sqrt(static_cast<float>(host.in)), name);
      d.dense.out = host.out;
      bias = host.dense().bias;
    }
    if (bias != nullptr) d.bias = store_.copy_of(std::span(bias, static_cast<std::size_t>(host.out)), name + ".bias");
    return d;
  }

  // Outputs that are padding become zeros, so that a matrix that reads them sees none of them.
  TrellisRef trellis(const LinearWeights& linear, const std::string& name) {
    const TrellisMatrix& host = linear.trellis();
    const std::size_t bytes = static_cast<std::size_t>(host.in) * static_cast<std::size_t>(host.out) / 8 *
                              static_cast<std::size_t>(host.bits);
    TrellisRef d{};
    d.words = static_cast<const unsigned char*>(host.words == nullptr ? store_.random_words(bytes, name)
                                                                      : store_.copy_later({host.words, bytes}, name));
    const auto in = static_cast<std::size_t>(host.in), out = static_cast<std::size_t>(host.out);
    d.suh = as_half(store_.halves({host.suh, in}, in, name + ".suh"));
    d.svh = as_half(store_.halves({host.svh, out}, static_cast<std::size_t>(linear.out), name + ".svh"));
    d.bits = host.bits;
    d.codebook = static_cast<int>(host.codebook);
    return d;
  }

  DenseMatrix dense(const DenseMatrix& host, float deviation, const std::string& name) {
    const std::size_t count = static_cast<std::size_t>(host.in) * static_cast<std::size_t>(host.out);
    DenseMatrix d = host;
    d.bias = nullptr;
    d.data = static_cast<const std::uint8_t*>(
        host.data == nullptr
            ? store_.random_values(count, host.type == kernels::DenseType::kBf16, deviation, name)
            : store_.copy_later({host.data, count * static_cast<std::size_t>(dense_type_bytes(host.type))}, name));
    return d;
  }

  const float* floats(const std::vector<float>& values, const std::string& name) {
    return store_.copy_of<float>(values, name);
  }

  [[noreturn]] static void unsupported(const std::string& name, const std::string& why) {
    throw Error(ErrorKind::kUnsupported, fmt::format("{} {}. Run this model on the CPU", name, why));
  }

  const HostModel& model_;
  const formats::ModelConfig& config_;
  kernels::cuda::UpWeight kv_b_;
  WeightStore& store_;
  std::vector<RoundingJob> rounding_;  // kv_b_proj of the layers
};

}  // namespace

DeviceWeights load_weights(const HostModel& model, kernels::cuda::UpWeight kv_b, WeightStore& store) {
  return Loader(model, kv_b, store).load();
}

}  // namespace fairway::model
