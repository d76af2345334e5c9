// sample_top: a cluster of eight CTAs a row keeps the row's logits in registers and their weights in shared memory, and
// searches in them bit by bit: for the last of the top_k, for the end of the nucleus, for the token that is drawn.
// Where there are no clusters, or no shared memory for so much of a row, sixteen CTAs do it that meet in global memory.
#include <algorithm>
#include <string>

#include "backend/cuda/check.cuh"
#include "fairway/error.h"
#include "kernels/common/cuda/cluster.cuh"
#include "kernels/common/cuda/gpu_features.h"
#include "kernels/common/cuda/hidden.cuh"
#include "kernels/common/cuda/launch.cuh"
#include "kernels/sample/cuda/cluster_exchange.cuh"
#include "kernels/sample/cuda/memory_exchange.cuh"
#include "kernels/sample/cuda/ordered.cuh"
#include "kernels/sample/cuda/sample_cuda.cuh"

namespace fairway::kernels::cuda {
namespace {

constexpr int kMaxThreads = 640;  // more would have too few registers for what they hold
constexpr int kIdBits = 18;       // of a vocabulary's ids
constexpr unsigned kAllIds = (1u << kIdBits) - 1;
static_assert(kMaxSampledVocabulary <= 1 << kIdBits);

// What CTAs of a row hold, and how they meet.
struct ByCluster {
  using Exchange = ClusterExchange<kExchangeRanks>;
  using Shared = ExchangeMemory;
  static constexpr int kRanks = kExchangeRanks;
};
struct ByMemory {
  using Exchange = MemoryExchange;
  using Shared = MemoryExchangeShared;
  static constexpr int kRanks = kMemoryRanks;
};
template <class By>
constexpr int kHeldBy = kMaxSampledVocabulary / (By::kRanks * kMaxThreads);  // logits of a thread
static_assert(kHeldBy<ByCluster> * ByCluster::kRanks * kMaxThreads == kMaxSampledVocabulary);
static_assert(kHeldBy<ByMemory> * ByMemory::kRanks * kMaxThreads == kMaxSampledVocabulary);

// splitmix64, as kernels/sample: a step adds kRandomStep to the state, and this is what the new state gives.
constexpr unsigned long long kRandomStep = 0x9E3779B97F4A7C15ull;
__device__ __forceinline__ unsigned long long random_of(unsigned long long state) {
  unsigned long long z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Where a search in a falling or rising order has ended.
struct Found {
  unsigned key;
  double before;  // sum of what comes before this key
};

enum class By { kLogit, kId };       // falling logits, or rising ids
enum class Of { kNumber, kWeight };  // what is summed

// Some of a thread's candidates, one bit each.
using Members = unsigned;
static_assert(kHeldBy<ByCluster> <= 32 && kHeldBy<ByMemory> <= 32);

// A row spread over the threads of its CTAs, kHeld candidates each.
template <class Meeting>
class Row {
  static constexpr int kHeld = kHeldBy<Meeting>;

 public:
  static constexpr int kRanks = Meeting::kRanks;

  __device__ Row(const SampleTopCall& a, typename Meeting::Exchange& exchange, double* weights, int rank)
      : exchange_(exchange), weights_(weights + threadIdx.x), stride_(static_cast<int>(blockDim.x)), rank_(rank) {
    const float* const logits = a.logits + blockIdx.x / kRanks * a.ld;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) keys_[j] = id(j) < a.vocab ? ordered(logits[id(j)]) : 0;
  }

  __device__ double weight(int j) const {
    return weights_[j * stride_];
  }
  __device__ void set_weights(double best, double temperature) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) weights_[j * stride_] = static_cast<double>(from_ordered(keys_[j])) - best;
#pragma unroll 1  // one exponential in the code, not kHeld
    for (int j = 0; j < kHeld; ++j) weights_[j * stride_] = exp(weights_[j * stride_] / temperature);
  }

  __device__ LogitPlace best() {
    double mine = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (keys_[j] != 0) mine = fmax(mine, logit_place(keys_[j], id(j)));
    }
    return logit_place_of(exchange_.max(mine));
  }

  // Those for which holds(number, key, id), among all logits.
  template <class Holds>
  __device__ Members members(const Holds& holds) const {
    Members members = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (keys_[j] != 0 && holds(j, keys_[j], id(j))) members |= 1u << j;
    }
    return members;
  }

  template <Of kOf>
  __device__ double sum(Members members) {
    if constexpr (kOf == Of::kNumber) return exchange_.sum(__popc(members));
    double mine = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if ((members >> j & 1) != 0) mine += weight(j);
    }
    return exchange_.sum(mine);
  }

  // The first place in the order up to which the members' sum is enough; key 0 if it never is. By ids, the key is
  // kAllIds - id. enough() must stay true as the sum grows.
  template <By kBy, Of kOf, class Enough>
  __device__ Found find(Members members, const Enough& enough) {
    Found found{0, 0};
    unsigned last = 0xFFFFFFFFu;  // greater keys are in found.before
#pragma unroll 1
    for (unsigned bit = kBy == By::kId ? (kAllIds + 1) / 2 : 0x80000000u; bit != 0; bit /= 2) {
      const unsigned pivot = found.key | bit;
      const Members within = kBy == By::kId ? with_ids(pivot, last) : with_keys(pivot, last);
      const double with = found.before + sum<kOf>(within & members);
      if (enough(with)) {
        found.key = pivot;
      } else {
        found.before = with;
        last = pivot - 1;
      }
    }
    return found;
  }

  // The id of member `number` (from 1) in rising order; the last member's if there are fewer.
  __device__ int select_id(double number, Members members) {
    const double all = sum<Of::kNumber>(members);
    if (number >= all) return last_id(members);  // mostly: few logits are equal
    return static_cast<int>(kAllIds -
                            find<By::kId, Of::kNumber>(members, [&](double count) { return count >= number; }).key);
  }

 private:
  __device__ int last_id(Members members) {
    return static_cast<int>(exchange_.max(members != 0 ? id(31 - __clz(static_cast<int>(members))) + 1.0 : 0.0)) - 1;
  }
  __device__ int id(int j) const {
    return (j * kRanks + rank_) * stride_ + static_cast<int>(threadIdx.x);
  }
  // Those with inverse ids from `first` up to `last`: neighbours in j.
  __device__ Members with_ids(unsigned first, unsigned last) const {
    const unsigned own = kAllIds - static_cast<unsigned>(rank_ * stride_ + hidden_thread());
    const unsigned step = static_cast<unsigned>(kRanks * stride_);
    const unsigned begin = own > last ? (own - last + step - 1) / step : 0;
    const unsigned end = own >= first ? (own - first) / step + 1 : 0;
    const auto below = [](unsigned n) { return n >= 32 ? ~0u : (1u << n) - 1; };
    return below(end) & ~below(begin);
  }
  __device__ Members with_keys(unsigned first, unsigned last) const {
    Members within = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (keys_[j] >= first && keys_[j] <= last) within |= 1u << j;
    }
    return within;
  }

  typename Meeting::Exchange& exchange_;
  double* weights_;  // of this thread, `stride_` apart
  int stride_, rank_;
  unsigned keys_[kHeld];  // of logits; 0: there is none
};

// The first top_k candidates in falling order.
template <class Row>
__device__ Members keep_top_k(Row& row, Members candidates, int top_k) {
  const Found last =
      row.template find<By::kLogit, Of::kNumber>(candidates, [&](double count) { return count >= top_k; });
  const int last_id =
      row.select_id(top_k - last.before, row.members([&](int, unsigned key, int) { return key == last.key; }));
  return row.members([&](int, unsigned key, int id) { return key > last.key || (key == last.key && id <= last_id); });
}

// The shortest prefix of the candidates in falling order whose weight is top_p of all of theirs.
template <class Row>
__device__ Members keep_top_p(Row& row, Members candidates, double top_p) {
  const double wanted = top_p * row.template sum<Of::kWeight>(candidates);
  const Found last =
      row.template find<By::kLogit, Of::kWeight>(candidates, [&](double kept) { return kept >= wanted; });
  if (last.key == 0) return candidates;  // rounding: not even all of them are enough
  // Equal logits have equal weights: how many of them?
  const Members equal = candidates & row.members([&](int, unsigned key, int) { return key == last.key; });
  const double equals = row.template sum<Of::kNumber>(equal), each = row.template sum<Of::kWeight>(equal) / equals;
  double number = 1;
  while (number < equals && last.before + number * each < wanted) number += 1;
  const int last_id = row.select_id(number, equal);
  return candidates &
         row.members([&](int, unsigned key, int id) { return key > last.key || (key == last.key && id <= last_id); });
}

template <class Row>
__device__ int draw(Row& row, const SampleTopCall& a, unsigned best_key) {
  const bool limited = a.top_k > 0 && a.top_k < a.vocab, nucleus = a.top_p < 1;
  Members kept = row.members([](int, unsigned, int) { return true; });
  if (limited) kept = keep_top_k(row, kept, a.top_k);
  if (nucleus) kept = keep_top_p(row, kept, a.top_p);
  kept &= row.members([&](int j, unsigned, int) { return row.weight(j) >= a.min_p; });  // the best one's is 1
  const double uniform =
      static_cast<double>(random_of(a.states[blockIdx.x / Row::kRanks] + kRandomStep) >> 11) * 0x1p-53;  // [0, 1)
  const double threshold = uniform * row.template sum<Of::kWeight>(kept);
  const auto beyond = [&](double sum) { return sum > threshold; };
  if (!limited && !nucleus) {  // in the order of ids
    const int id = static_cast<int>(kAllIds - row.template find<By::kId, Of::kWeight>(kept, beyond).key);
    return id < a.vocab ? id : row.select_id(kAllIds, kept);
  }
  const Found found = row.template find<By::kLogit, Of::kWeight>(kept, beyond);
  const unsigned drawn = found.key != 0 ? found.key : best_key;
  const Members equal = kept & row.members([&](int, unsigned key, int) { return key == drawn; });
  const double each = row.template sum<Of::kWeight>(equal) / row.template sum<Of::kNumber>(equal);
  return row.select_id(floor((threshold - found.before) / each) + 1, equal);
}

// r: row.
template <class Meeting>
__device__ __forceinline__ void sample_row(const SampleTopCall& a, typename Meeting::Exchange& exchange,
                                           double* weights, int r, int rank) {
  Row<Meeting> row(a, exchange, weights, rank);
  const LogitPlace top = row.best();
  const float best = from_ordered(top.key);
  int id = top.id;
  const bool drawn = a.temperature > 0 && fabsf(best) < __uint_as_float(0x7F800000u);
  if (drawn) {
    row.set_weights(best, a.temperature);
    id = draw(row, a, top.key);
  }
  if (rank != 0 || threadIdx.x != 0) return;
  if (drawn) a.states[r] += kRandomStep;  // all CTAs have read it: they took part in the search for what it gave
  store_choice(id, r, a.ids, a.position, a.history, a.history_stride);
}

__global__ void __launch_bounds__(kMaxThreads) sample_top_kernel(const __grid_constant__ SampleTopCall a) {
  if constexpr (kCodeHasClusters) {
    const int rank = rank_in_cluster();
    const int r = static_cast<int>(blockIdx.x) / kExchangeRanks;
    ExchangeMemory& memory = *dynamic_shared<ExchangeMemory>();
    ClusterExchange<kExchangeRanks> exchange(memory, rank);
    exchange.wait_for_others();
    wait_for_previous_kernel();
    let_next_kernel_start();
    sample_row<ByCluster>(a, exchange, reinterpret_cast<double*>(&memory + 1), r, rank);
  } else {
    not_for_this_code();
  }
}

__global__ void __launch_bounds__(kMaxThreads) sample_top_by_memory(const __grid_constant__ SampleTopCall a) {
  const int rank = static_cast<int>(blockIdx.x) % kMemoryRanks, r = static_cast<int>(blockIdx.x) / kMemoryRanks;
  MemoryExchangeShared& shared = *dynamic_shared<MemoryExchangeShared>();
  wait_for_previous_kernel();
  let_next_kernel_start();
  MemoryExchange exchange(shared, r, rank);
  sample_row<ByMemory>(a, exchange, reinterpret_cast<double*>(&shared + 1), r, rank);
}

template <class Meeting>
LaunchShape shape_of(int rows, int vocab) {
  constexpr int kHeld = kHeldBy<Meeting>, kOfWarps = Meeting::kRanks * kHeld * 32;  // logits of one warp of every CTA
  LaunchShape shape{static_cast<unsigned>(rows * Meeting::kRanks), (vocab + kOfWarps - 1) / kOfWarps * 32};
  shape.shared_bytes = static_cast<int>(sizeof(typename Meeting::Shared) +
                                        sizeof(double) * kHeld * static_cast<unsigned>(shape.threads));
  return shape;
}

bool cluster_fits(int vocab) {
  const GpuFeatures features = gpu_features();
  return features.clusters && shape_of<ByCluster>(1, vocab).shared_bytes <= features.shared_bytes;
}

// Rows whose CTAs run at the same time.
cudaError_t rows_at_once(int vocab, int& rows) {
  const LaunchShape shape = shape_of<ByMemory>(1, vocab);
  int ctas = 0;
  const cudaError_t status = ctas_at_once(sample_top_by_memory, shape.threads, shape.shared_bytes, ctas);
  rows = std::min(ctas * sm_count() / kMemoryRanks, kMemoryRows);
  return status;
}

cudaError_t run_by_memory(const SampleTopCall& call, cudaStream_t stream) {
  int most = 0;
  cudaError_t status = rows_at_once(call.vocab, most);
  if (status == cudaSuccess && most < 1) return cudaErrorNotSupported;
  for (int begin = 0; begin < call.rows && status == cudaSuccess; begin += most) {
    SampleTopCall part = call;
    part.rows = std::min(most, call.rows - begin);
    part.logits += begin * call.ld;
    part.states += begin;
    part.ids += begin;
    if (part.position != nullptr) part.position += begin;
    if (part.history != nullptr) part.history += static_cast<long long>(begin) * call.history_stride;
    LaunchShape shape = shape_of<ByMemory>(part.rows, call.vocab);
    shape.together = true;
    shape.chained = false;
    status = launch(sample_top_by_memory, shape, stream, part);
  }
  return status;
}

void check(const SampleTopCall& a) {
  const auto refuse = [](const std::string& name, const std::string& value, const std::string& expected) {
    throw Error(ErrorKind::kUsage, "sample_top: " + name + " is " + value + ", expected " + expected);
  };
  constexpr float kLargest = 3.4028234e38f;
  if (a.rows < 1 || a.rows > 1 << 24) refuse("the number of rows", std::to_string(a.rows), "1 or more");
  if (a.vocab < 1 || a.ld < a.vocab) {
    refuse("the row stride", std::to_string(a.ld), "at least the vocabulary of " + std::to_string(a.vocab));
  }
  if (!(a.temperature >= 0 && a.temperature <= kLargest)) {
    refuse("temperature", std::to_string(a.temperature), ">= 0");
  }
  if (a.top_k < 0) refuse("top_k", std::to_string(a.top_k), ">= 0 (0: off)");
  if (!(a.top_p > 0 && a.top_p <= 1)) refuse("top_p", std::to_string(a.top_p), "above 0 and at most 1");
  if (!(a.min_p >= 0 && a.min_p < 1)) refuse("min_p", std::to_string(a.min_p), "at least 0 and below 1");
  if (a.history != nullptr && (a.position == nullptr || a.history_stride < 1)) {
    refuse("the history's stride", std::to_string(a.history_stride), "1 or more, and positions");
  }
  if (a.vocab > kMaxSampledVocabulary) {
    throw Error(ErrorKind::kUnsupported, "sample_top: a vocabulary of " + std::to_string(a.vocab) + ", at most " +
                                             std::to_string(kMaxSampledVocabulary) + " is possible");
  }
}

}  // namespace

bool sample_top_fits(int vocab) {
  if (vocab < 1 || vocab > kMaxSampledVocabulary) return false;
  int rows = 0;
  return cluster_fits(vocab) || (rows_at_once(vocab, rows) == cudaSuccess && rows >= 1);
}

void sample_top(const SampleTopCall& call, cudaStream_t stream) {
  check(call);
  if (!cluster_fits(call.vocab)) {
    backend::check_cuda(run_by_memory(call, stream), "sample_top");
    return;
  }
  LaunchShape shape = shape_of<ByCluster>(call.rows, call.vocab);
  shape.cluster = kExchangeRanks;
  backend::check_cuda(launch(sample_top_kernel, shape, stream, call), "sample_top");
}

}  // namespace fairway::kernels::cuda
