// Making the layer, its calls and their reference.
#include "kernels/verify/cuda/device_experts.cuh"

#include <numeric>
#include <utility>

#include "backend/cuda/native.cuh"

namespace fairway::verify {
namespace {

std::uint8_t width(int i) {
  return static_cast<std::uint8_t>(1 + i % 8);
}

const kernels::MoeSwigluRow& reference_row() {
  for (const kernels::MoeSwigluRow& row : kernels::moe_swiglu_rows()) {
    if (row.info.backend == kernels::Backend::kCpuRef && row.info.weights == kernels::WeightKind::kTrellis) return row;
  }
  throw std::logic_error("no reference row");
}

}  // namespace

DeviceExperts::DeviceExperts(std::mt19937& random, backend::CudaStream& stream, int most_size,
                             const std::vector<codec::Codebook>& codebooks, int round, bool common_scales)
    : stream_(stream), weights_copies_(stream), hidden_(random_size(random, most_size)) {
  layer_.routed = kRouted;
  layer_.shared = kShared;
  layer_.top_k = kTopK;
  layer_.hidden = padded(hidden_);
  layer_.all_mul1 = true;
  const __half* common = nullptr;
  std::vector<kernels::cuda::ExpertRef> refs;
  for (int i = 0; i < kRouted + kShared; ++i) {
    // 3 and 5 have no divisor in common with 8: every projection has every width.
    const kernels::BitTuple bits{width(i + round), width(3 * i + 1 + round), width(5 * i + 2 + round)};
    const codec::Codebook book = codebooks[static_cast<std::size_t>(i) % codebooks.size()];
    experts_.push_back(std::make_unique<Expert>(random, hidden_, random_size(random, most_size), bits, book, false));
    Expert& e = *experts_.back();
    for (RandomTrellis* m : {&e.gate, &e.up, &e.down}) m->round_scales();
    if (common_scales) {
      e.gate.share_input_scales(experts_.front()->gate);
      e.up.share_input_scales(experts_.front()->gate);
      e.weights = {e.gate.linear(), e.up.linear(), e.down.linear()};
    }
    kernels::cuda::ExpertRef ref{};
    ref.gate = weights_copies_.matrix(e.gate, common);
    if (common_scales) common = ref.gate.suh;
    ref.up = weights_copies_.matrix(e.up, common);
    ref.down = weights_copies_.matrix(e.down);
    ref.intermediate = e.gate.matrix().out;
    layer_.max_intermediate = std::max(layer_.max_intermediate, ref.intermediate);
    layer_.widths.include(ref);
    layer_.all_mul1 &= book == codec::Codebook::kMul1;
    refs.push_back(ref);
  }
  layer_.experts = weights_copies_.copy<kernels::cuda::ExpertRef>(refs);
  layer_.common_suh = common;
}

std::vector<float> DeviceExperts::start_call(std::mt19937& random, int tokens) {
  tokens_ = tokens;
  const std::size_t rows = static_cast<std::size_t>(tokens), hidden = static_cast<std::size_t>(hidden_);
  const std::size_t wide = static_cast<std::size_t>(layer_.hidden);
  const std::vector<float> x = random_halves(random, rows * hidden);
  std::vector<float> padded_x(rows * wide, 0.0f);
  for (std::size_t t = 0; t < rows; ++t) {
    std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(t * hidden), hidden_,
                padded_x.begin() + static_cast<std::ptrdiff_t>(t * wide));
  }
  std::vector<int> ids, pool(kRouted);
  std::vector<float> weights;
  std::iota(pool.begin(), pool.end(), 0);
  for (int t = 0; t < tokens; ++t) {
    for (std::size_t j = 0; j < kTopK; ++j) {
      std::swap(pool[j], pool[j + random() % (pool.size() - j)]);
      const bool unused = random() % 8 == 0;
      ids.push_back(unused ? -1 : pool[j]);
      weights.push_back(0.1f + 0.9f * static_cast<float>(random() % 1000) / 1000.0f);
    }
  }
  call_copies_ = std::make_unique<DeviceCopies>(stream_);
  call_ = {call_copies_->halves(padded_x),
           layer_.hidden,
           call_copies_->copy<int>(ids),
           call_copies_->copy<float>(weights),
           tokens,
           call_copies_->allocate<float>(rows * wide),
           layer_.hidden};
  workspace_bytes_ = kernels::cuda::moe_workspace_bytes(layer_, tokens);
  workspace_ = call_copies_->allocate<unsigned char>(workspace_bytes_);
  return reference(x, ids, weights);
}

std::vector<float> DeviceExperts::reference(const std::vector<float>& x, const std::vector<int>& ids,
                                            const std::vector<float>& weights) const {
  const std::size_t rows = static_cast<std::size_t>(tokens_), hidden = static_cast<std::size_t>(hidden_);
  std::vector<double> sums(rows * hidden, 0.0);
  backend::ThreadPool pool(2);
  backend::Workspace workspace;
  kernels::KernelContext context{pool, workspace};
  const kernels::MoeSwigluRow& row = reference_row();
  for (int e = 0; e < kRouted + kShared; ++e) {
    std::vector<std::int32_t> tokens;
    std::vector<float> of_slot;
    for (int t = 0; t < tokens_; ++t) {
      if (e >= kRouted) {
        tokens.push_back(t);
        of_slot.push_back(1.0f);
      }
      for (int j = 0; j < kTopK; ++j) {
        const std::size_t slot = static_cast<std::size_t>(t * kTopK + j);
        if (ids[slot] != e) continue;
        tokens.push_back(t);
        of_slot.push_back(weights[slot]);
      }
    }
    if (tokens.empty()) continue;
    const kernels::ExpertGroup group{&experts_[static_cast<std::size_t>(e)]->weights, tokens.data(),
                                     static_cast<int>(tokens.size()), 0};
    std::vector<float> y = poison(tokens.size() * hidden);
    row.fn({x.data(), hidden_, hidden_, {&group, 1}, y.data()}, row.info.tile, context);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      for (std::size_t n = 0; n < hidden; ++n) {
        sums[static_cast<std::size_t>(tokens[i]) * hidden + n] += static_cast<double>(of_slot[i]) * y[i * hidden + n];
      }
    }
  }
  return std::vector<float>(sums.begin(), sums.end());
}

std::vector<float> DeviceExperts::run(kernels::cuda::MoePath path, int poison) {
  const std::size_t rows = static_cast<std::size_t>(tokens_), wide = static_cast<std::size_t>(layer_.hidden);
  stream_.fill(workspace_, static_cast<unsigned char>(poison), workspace_bytes_);
  stream_.fill(call_.y, static_cast<unsigned char>(poison), rows * wide * sizeof(float));
  kernels::cuda::moe_swiglu(layer_, call_, path, workspace_, backend::native(stream_));
  std::vector<float> all(rows * wide), y;
  stream_.copy_to_host(all.data(), call_.y, all.size() * sizeof(float));
  stream_.wait();
  for (std::size_t t = 0; t < rows; ++t) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(t * wide);
    y.insert(y.end(), begin, begin + hidden_);
  }
  return y;
}

}  // namespace fairway::verify
