// Memory of a pass, and its kernels in the order of the model.
#include "model/cuda/device_pass.cuh"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "codec/packing.h"
#include "kernels/attention_gqa/cuda/gqa_decode.cuh"
#include "kernels/attention_mla/cuda/mla_decode.cuh"
#include "kernels/common/cuda/embed.cuh"
#include "kernels/common/cuda/swiglu.cuh"
#include "kernels/dense_linear/cuda/dense_linear_cuda.cuh"
#include "kernels/route/cuda/route_cuda.cuh"
#include "model/weights.h"

namespace fairway::model {
namespace {

namespace cuda = kernels::cuda;
using codec::padded;

constexpr int kMostLinears = 4;  // that read one input in one launch

// A dense MLP of up to so many rows is computed as linear layers: their paths share a matrix among all SMs, an expert
// layer's give each SM items, which one expert has few of. Measured on an H200 inside chains of layers of
// GLM-4.7-Flash. One row does not: the kernel for one token shares an expert among all SMs.
constexpr int kDenseRows = 256;

kernels::RopeLayout rope_layout(const formats::ModelConfig& c) {
  return c.rope_interleave ? kernels::RopeLayout::kInterleaved : kernels::RopeLayout::kHalves;
}

bool is_mla(const formats::ModelConfig& c) {
  return c.attention == formats::AttentionKind::kMla;
}

}  // namespace

DevicePass::DevicePass(const formats::ModelConfig& config, const DeviceWeights& weights, const DevicePassLimits& limits,
                       backend::DeviceArena* arena)
    : c_(config), weights_(weights), limits_(limits), arena_(arena) {
  hidden_padded_ = static_cast<int>(padded(c_.hidden_size));
  q_rank_padded_ = static_cast<int>(padded(c_.q_lora_rank));
  attended_padded_ = static_cast<int>(padded(c_.num_attention_heads * (is_mla(c_) ? c_.v_head_dim : c_.head_dim)));
  place();
  place_attention();
  place_caches();
}

int DevicePass::rope_half() const {
  return (is_mla(c_) ? c_.qk_rope_head_dim : c_.head_dim) / 2;
}

template <class T>
T* DevicePass::take(std::size_t count, const char* what) {
  bytes_ += static_cast<std::int64_t>(backend::DeviceArena::rounded(count * sizeof(T)));
  return arena_ == nullptr ? nullptr : arena_->alloc<T>(count, what);
}

void DevicePass::place() {
  const std::size_t rows = static_cast<std::size_t>(limits_.rows), hidden = static_cast<std::size_t>(hidden_padded_);
  ids_ = take<int>(rows, "token ids");
  sequence_ = take<int>(rows, "sequences of rows");
  position_ = take<int>(rows, "positions of rows");
  for (float*& stream : residual_) stream = take<float>(rows * hidden, "residual stream");
  delta_ = take<float>(rows * hidden, "expert outputs");
  normed_ = take<__half>(rows * hidden, "normalised activations");
  std::size_t slots = 0, experts = 0, moe_bytes = 0;
  for (const DeviceLayer& layer : weights_.layers) {
    slots = std::max(slots, static_cast<std::size_t>(layer.moe.top_k));
    experts = std::max(experts, static_cast<std::size_t>(layer.moe.routed));
    moe_bytes = std::max(moe_bytes, cuda::moe_workspace_bytes(layer.moe, limits_.rows));
  }
  expert_ids_ = take<int>(rows * slots, "chosen experts");
  expert_weights_ = take<float>(rows * slots, "weights of experts");
  route_units_bytes_ = rows * slots * sizeof(uint4);
  route_units_ = take<uint4>(rows * slots, "announced experts");
  route_turn_ = take<unsigned>(1, "number of announced experts");
  route_row_ = take<unsigned>(1, "number of an announced row");
  router_logits_ = take<float>(rows * experts, "router logits");
  moe_workspace_ = take<unsigned char>(moe_bytes, "scratch of the expert layer");
  int dense = 0;  // widest dense MLP
  for (const DeviceLayer& layer : weights_.layers) dense = std::max(dense, layer.dense.gate.out);
  const int dense_rows = std::min(limits_.rows, kDenseRows);
  const std::size_t dense_elems = static_cast<std::size_t>(dense_rows) * static_cast<std::size_t>(dense);
  gate_ = take<float>(dense_elems, "gate of a dense MLP");
  up_ = take<float>(dense_elems, "up of a dense MLP");
  gated_ = take<__half>(dense_elems, "inputs of down of a dense MLP");
  const int widest = std::max({hidden_padded_, q_rank_padded_, attended_padded_});
  linear_workspace_ = take<unsigned char>(std::max(cuda::linear_workspace_bytes(limits_.rows, widest, kMostLinears),
                                                   cuda::linear_workspace_bytes(dense_rows, dense, 1)),
                                          "scratch of linear layers");
  logits_ =
      take<float>(static_cast<std::size_t>(limits_.head_rows) * static_cast<std::size_t>(c_.vocab_size), "logits");
  random_states_ = take<unsigned long long>(static_cast<std::size_t>(limits_.sequences), "random number generators");
  chosen_ = take<int>(static_cast<std::size_t>(limits_.sequences) * kKeptSteps, "chosen tokens");
}

void DevicePass::place_attention() {
  const std::size_t rows = static_cast<std::size_t>(limits_.rows);
  const std::size_t heads = static_cast<std::size_t>(c_.num_attention_heads);
  if (is_mla(c_)) {
    const std::size_t latent = static_cast<std::size_t>(c_.kv_lora_rank);
    const std::size_t rope = static_cast<std::size_t>(c_.qk_rope_head_dim);
    const std::size_t nope = static_cast<std::size_t>(c_.qk_nope_head_dim);
    q_latent_ = take<float>(rows * static_cast<std::size_t>(c_.q_lora_rank), "latent queries");
    q_latent_normed_ = take<__half>(rows * static_cast<std::size_t>(q_rank_padded_), "normalised latent queries");
    kv_ = take<float>(rows * (latent + rope), "latents");
    q_ = take<float>(rows * heads * (nope + rope), "queries");
    q_nope_ = take<__half>(rows * heads * nope, "queries without rotation");
    q_full_ = take<__half>(rows * heads * (latent + rope), "absorbed queries");
    latent_out_ = take<__half>(rows * heads * latent, "attended latents");
  } else {
    const std::size_t dim = static_cast<std::size_t>(c_.head_dim);
    const std::size_t kv = static_cast<std::size_t>(c_.num_key_value_heads) * dim;
    q_ = take<float>(rows * heads * dim, "queries");
    k_ = take<float>(rows * kv, "keys");
    v_ = take<float>(rows * kv, "values");
    q_full_ = take<__half>(rows * heads * dim, "rotated queries");
  }
  attended_ = take<__half>(rows * static_cast<std::size_t>(attended_padded_), "attention outputs");
  const std::size_t table = static_cast<std::size_t>(limits_.context) * static_cast<std::size_t>(rope_half());
  cos_ = take<float>(table, "cosines");
  sin_ = take<float>(table, "sines");
  const int batch = std::min(limits_.rows, limits_.sequences);
  const std::size_t prompt = cuda::attend_workspace_bytes(attend_call(0, {limits_.rows, true, limits_.context}));
  const std::size_t decode = cuda::attend_workspace_bytes(attend_call(0, {batch, false, limits_.context}));
  attend_workspace_ = take<unsigned char>(std::max(prompt, decode), "scratch of attention");
}

void DevicePass::clear(backend::CudaStream& stream) const {
  stream.fill(cache_, 0, layer_cache_bytes_ * weights_.layers.size());
  stream.fill(route_units_, 0, route_units_bytes_);
  stream.fill(route_turn_, 0, sizeof(unsigned));
  stream.fill(route_row_, 0, sizeof(unsigned));
  stream.fill(attended_, 0,
              static_cast<std::size_t>(limits_.rows) * static_cast<std::size_t>(attended_padded_) * sizeof(__half));
}

void DevicePass::place_caches() {
  const std::int64_t before = bytes_;
  layer_cache_bytes_ = backend::DeviceArena::rounded(
      static_cast<std::size_t>(limits_.sequences) * static_cast<std::size_t>(limits_.context) *
      static_cast<std::size_t>(cache_row_elems(c_)) * static_cast<std::size_t>(cuda::cache_type_bytes(limits_.cache)));
  cache_ = take<unsigned char>(layer_cache_bytes_ * weights_.layers.size(), "cache of keys and values");
  cache_bytes_ = bytes_ - before;
}

cuda::LayerCache DevicePass::cache_of(std::size_t layer) const {
  return {cache_ + layer * layer_cache_bytes_, limits_.cache, static_cast<int>(cache_row_elems(c_)), limits_.context};
}

cuda::AttendCall DevicePass::attend_call(std::size_t layer, const DevicePassRows& pass) const {
  const bool latent = is_mla(c_);
  const int key = latent ? c_.kv_lora_rank + c_.qk_rope_head_dim : c_.head_dim;
  const int value = latent ? c_.kv_lora_rank : c_.head_dim;
  const int kv_heads = latent ? 1 : c_.num_key_value_heads;
  const int head = latent ? c_.qk_nope_head_dim + c_.qk_rope_head_dim : c_.head_dim;
  cuda::AttendCall call{};
  call.q = q_full_;
  call.cache = cache_of(layer);
  call.heads = c_.num_attention_heads;
  call.kv_heads = kv_heads;
  call.key_dim = key;
  call.value_dim = value;
  call.key_offset = 0;
  call.key_stride = c_.head_dim;
  call.value_offset = latent ? 0 : kv_heads * c_.head_dim;
  call.value_stride = c_.head_dim;
  call.rows = rows_of(pass);
  call.one_sequence = pass.one_sequence;
  call.max_context = pass.max_context;
  call.fresh = pass.one_sequence ? pass.rows : 1;
  call.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head)));
  call.out = latent ? latent_out_ : attended_;
  return call;
}

// normed = norm(x += add)
cuda::NormCall DevicePass::norm_call(float* add, const float* weight, int rows) const {
  cuda::NormCall call{};
  call.x = x_;
  call.ldx = hidden_padded_;
  call.add = add;
  call.ldadd = hidden_padded_;
  call.weight = weight;
  call.eps = c_.rms_norm_eps;
  call.n = c_.hidden_size;
  call.rows = rows;
  call.out = normed_;
  call.ldo = hidden_padded_;
  call.padded = hidden_padded_;
  return call;
}

// A norm as linear layers have it in front of them; its sum goes to the other one of the residual streams, since
// every CTA of theirs reads x.
cuda::LinearNorm DevicePass::linear_norm(const cuda::NormCall& call) const {
  float* const other = call.x == residual_[0] ? residual_[1] : residual_[0];
  const bool stores = call.add != nullptr && !call.keeps_x;
  return {call.x, call.ldx, call.add, call.ldadd, call.weight, call.eps, call.n, stores ? other : nullptr, call.ldx};
}

// Linear layers of a norm: in their launches if they can, and through call.out if not.
void DevicePass::normed_linears(const cuda::NormCall& norm, std::initializer_list<const DeviceLinear*> matrices,
                                std::initializer_list<float*> outputs, cudaStream_t stream) {
  linears(norm.out, static_cast<int>(norm.ldo), norm.rows, matrices.begin(), outputs.begin(),
          static_cast<int>(matrices.size()), false, stream, &norm);
}

// Trellis-coded matrices in one launch, plain ones in one each. norm: what x is to become, null if it is there.
void DevicePass::linears(const __half* x, int ldx, int rows, const DeviceLinear* const* matrices, float* const* outputs,
                         int count, bool add, cudaStream_t stream, const cuda::NormCall* norm) {
  cuda::LinearCall call{};
  call.x = x;
  call.ldx = ldx;
  call.rows = rows;
  call.all_mul1 = true;
  for (int i = 0; i < count; ++i) {
    const DeviceLinear& m = *matrices[i];
    if (!m.is_trellis) continue;
    call.in = m.trellis_in;
    call.all_mul1 &= m.trellis.codebook == static_cast<int>(codec::Codebook::kMul1);
    call.max_bits = std::max(call.max_bits, m.trellis.bits);
    call.outputs[call.count++] = {m.trellis, m.trellis_out, m.out, m.bias, outputs[i], m.out, add};
  }
  if (call.count > 0 && paths_ != nullptr && paths_->leaves_out(call)) return;
  cuda::LinearPath path{};
  if (call.count > 0) path = paths_ != nullptr ? paths_->choose(call) : cuda::linear_default_path(call);
  if (norm != nullptr) {
    call.norm = linear_norm(*norm);
    if (call.count < count || !cuda::linear_norm_legal(call.norm, call.in) || !cuda::linear_takes_norm(call, path)) {
      cuda::rms_norm(*norm, stream);
      call.norm = {};
    } else if (call.norm.sum != nullptr) {
      x_ = call.norm.sum;
    }
  }
  for (int i = 0; i < count; ++i) {
    const DeviceLinear& m = *matrices[i];
    if (m.is_trellis) continue;
    cuda::dense_linear({m.dense.data, m.dense.type, m.in, m.out, m.bias, x, ldx, rows, outputs[i], m.out, add}, stream);
  }
  if (call.count == 0) return;
  if (calls_ != nullptr) calls_->linears.push_back(call);
  cuda::trellis_linear(call, path, linear_workspace_, stream);
}

// q_b_proj as a part of the attention. None of it if that cannot be.
cuda::MlaQuery DevicePass::query_inside(const DeviceLinear& q_b, const cuda::NormCall& norm) const {
  if (!q_b.is_trellis || q_b.bias != nullptr || q_b.out != q_b.trellis_out) return {};
  return {linear_norm(norm), q_b.trellis_in, q_b.trellis};
}

void DevicePass::mla(std::size_t layer, const cuda::NormCall& input, const DevicePassRows& pass, cudaStream_t stream) {
  const DeviceMla& w = weights_.layers[layer].mla;
  cuda::MlaAttention attention{};
  cuda::MlaPrepare& prepare = attention.prepare;
  prepare.heads = c_.num_attention_heads;
  prepare.nope = c_.qk_nope_head_dim;
  prepare.latent = c_.kv_lora_rank;
  prepare.q = q_;
  prepare.ldq = static_cast<long long>(prepare.heads) * (prepare.nope + c_.qk_rope_head_dim);
  prepare.kv = kv_;
  prepare.ldkv = prepare.latent + c_.qk_rope_head_dim;
  prepare.kv_norm = w.kv_a_norm;
  prepare.eps = c_.latent_norm_eps;
  prepare.angles = {cos_, sin_, limits_.context, 2 * rope_half(), rope_layout(c_)};
  prepare.rows = rows_of(pass);
  prepare.cache = cache_of(layer);
  prepare.q_nope = q_nope_;
  prepare.q_full = q_full_;
  attention.up = w.kv_b;
  attention.attend = attend_call(layer, pass);
  attention.out = attended_;
  attention.ldo = attended_padded_;
  if (c_.q_lora_rank > 0) {
    normed_linears(input, {&w.q_a, &w.kv_a}, {q_latent_, kv_}, stream);
    cuda::NormCall call{};
    call.x = q_latent_;
    call.ldx = c_.q_lora_rank;
    call.weight = w.q_a_norm;
    call.eps = c_.latent_norm_eps;
    call.n = c_.q_lora_rank;
    call.rows = pass.rows;
    call.out = q_latent_normed_;
    call.ldo = call.padded = q_rank_padded_;
    attention.query = query_inside(w.q_b, call);
    if (!cuda::mla_query_fits(attention)) {
      attention.query = {};
      normed_linears(call, {&w.q_b}, {q_}, stream);
    }
  } else {
    normed_linears(input, {&w.q_b, &w.kv_a}, {q_, kv_}, stream);
  }
  cuda::mla_attention(attention, attend_workspace_, stream);
  const DeviceLinear* last[] = {&w.o};
  linears(attended_, attended_padded_, pass.rows, last, &x_, 1, true, stream, nullptr);
}

void DevicePass::gqa(std::size_t layer, const cuda::NormCall& input, const DevicePassRows& pass, cudaStream_t stream) {
  const DeviceGqa& w = weights_.layers[layer].gqa;
  normed_linears(input, {&w.q, &w.k, &w.v}, {q_, k_, v_}, stream);
  cuda::GqaAttention attention{};
  cuda::GqaPrepare& prepare = attention.prepare;
  prepare.heads = c_.num_attention_heads;
  prepare.kv_heads = c_.num_key_value_heads;
  prepare.dim = c_.head_dim;
  prepare.q = q_;
  prepare.ldq = static_cast<long long>(prepare.heads) * prepare.dim;
  prepare.k = k_;
  prepare.v = v_;
  prepare.ldk = prepare.ldv = static_cast<long long>(prepare.kv_heads) * prepare.dim;
  prepare.q_norm = w.q_norm;
  prepare.k_norm = w.k_norm;
  prepare.eps = c_.rms_norm_eps;
  prepare.angles = {cos_, sin_, limits_.context, 2 * rope_half(), rope_layout(c_)};
  prepare.rows = rows_of(pass);
  prepare.cache = cache_of(layer);
  prepare.q_out = q_full_;
  attention.attend = attend_call(layer, pass);
  cuda::gqa_attention(attention, attend_workspace_, stream);
  const DeviceLinear* last[] = {&w.o};
  linears(attended_, attended_padded_, pass.rows, last, &x_, 1, true, stream, nullptr);
}

// delta = down(silu(gate(norm)) * up(norm))
void DevicePass::dense_mlp(const DeviceMlp& mlp, const cuda::NormCall& input, cudaStream_t stream) {
  const int rows = input.rows;
  normed_linears(input, {&mlp.gate, &mlp.up}, {gate_, up_}, stream);
  cuda::swiglu(gate_, up_, static_cast<long long>(rows) * mlp.gate.out, gated_, stream);
  const DeviceLinear* last[] = {&mlp.down};
  linears(gated_, mlp.gate.out, rows, last, &delta_, 1, false, stream, nullptr);
}

// delta = experts(norm(x)); the next norm adds it.
void DevicePass::experts(const DeviceLayer& layer, int rows, cudaStream_t stream) {
  const bool routed = layer.moe.top_k > 0;
  // The router's kernel only reads x_.
  const cuda::MoeNorm norm{x_, hidden_padded_, layer.mlp_input_norm, c_.rms_norm_eps, c_.hidden_size};
  // Of one row, the expert layer's kernel for one token takes it if it can.
  const bool in_one = !routed && cuda::moe_polls_row(layer.moe, rows, cuda::moe_default_path(layer.moe, rows), norm);
  if (!routed && !in_one && layer.dense.gate.is_trellis && rows <= kDenseRows) {
    dense_mlp(layer.dense, norm_call(nullptr, layer.mlp_input_norm, rows), stream);
    return;
  }
  const bool left_out = paths_ != nullptr && paths_->leaves_out(layer.moe);
  const cuda::MoePath path =
      paths_ != nullptr && !left_out ? paths_->choose(layer.moe, rows) : cuda::moe_default_path(layer.moe, rows);
  const bool announces = routed && !left_out && cuda::moe_polls_routes(layer.moe, rows, path);
  cuda::AnnouncedRoutes announced;
  if (announces) announced = {route_units_, route_turn_};
  if (!routed) {
    cuda::rms_norm(norm_call(nullptr, layer.mlp_input_norm, rows), stream);
  } else {
    cuda::RouteCall call{};
    call.norm = norm_call(nullptr, layer.mlp_input_norm, rows);
    call.weight = layer.router.weight.data;
    call.type = layer.router.weight.type;
    call.experts = layer.router.params.experts;
    call.top_k = layer.router.params.top_k;
    call.kind = layer.router.params.kind;
    call.normalize = layer.router.params.normalize;
    call.scaling_factor = layer.router.params.scaling_factor;
    call.selection_bias = layer.router.selection_bias;
    call.ids = expert_ids_;
    call.weights = expert_weights_;
    call.logits = router_logits_;
    if (announces && cuda::moe_polls_row(layer.moe, rows, path, norm) && cuda::route_announces_row(call)) {
      announced.row = route_row_;
    }
    call.announced = announced;
    call.read_next = layer.moe.experts;
    call.read_next_bytes = static_cast<int>(sizeof(cuda::ExpertRef)) * (layer.moe.routed + layer.moe.shared);
    cuda::norm_and_route(call, stream);
  }
  cuda::MoeCall call{normed_, hidden_padded_, expert_ids_, expert_weights_, rows, delta_, hidden_padded_};
  call.norm = norm;
  if (calls_ != nullptr) calls_->experts.push_back({layer.moe, call});
  if (left_out) return;
  call.announced = announced;
  cuda::moe_swiglu(layer.moe, call, path, moe_workspace_, stream);
}

void DevicePass::layers(const DevicePassRows& pass, cudaStream_t stream) {
  x_ = residual_[0];  // whatever a pass before this one ended with
  cuda::embed({weights_.embedding.data, weights_.embedding.type, c_.vocab_size, c_.hidden_size}, ids_, pass.rows, x_,
              hidden_padded_, stream);
  const std::size_t count = pass.layers.empty() ? weights_.layers.size() : pass.layers.size();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t l = pass.layers.empty() ? i : static_cast<std::size_t>(pass.layers[i]);
    const DeviceLayer& layer = weights_.layers[l];
    // With what the experts of the layer before have left, which is not of this pass in front of its first layer.
    const cuda::NormCall input = norm_call(i == 0 ? nullptr : delta_, layer.attention_input_norm, pass.rows);
    if (is_mla(c_)) {
      mla(l, input, pass, stream);
    } else {
      gqa(l, input, pass, stream);
    }
    experts(layer, pass.rows, stream);
  }
}

// The final norm is of these rows only, and leaves the residual stream as it is.
void DevicePass::head(int row, int rows, cudaStream_t stream) {
  const std::size_t first = static_cast<std::size_t>(row) * static_cast<std::size_t>(hidden_padded_);
  cuda::NormCall norm = norm_call(delta_ + first, weights_.final_norm, rows);
  norm.x += first;
  norm.out += first;
  norm.keeps_x = true;
  normed_linears(norm, {&weights_.head}, {logits_}, stream);
}

}  // namespace fairway::model
