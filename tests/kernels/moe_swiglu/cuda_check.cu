// Checks the CUDA expert layer against double precision: every path, width, codebook and remainder. Stand-alone.
//
//   cuda_check [--quick]    exits with 0 if all passed; the last line counts
//
// Bound: |row - reference| <= 0.003 |reference| for every row of y. Inputs of all matrices are rounded to halves after
// their transform (2^-12 relative at most, two layers), the integer paths add 15-bit fixed point and the affine form
// of mul1 (2e-4). Outputs and scratch are poisoned before each run, and a second run must give the same bits.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "cuda_problem.h"
#include "kernels/moe_swiglu/cuda/trellis_decode.cuh"

namespace fairway::kernels::cuda::check {
namespace {

constexpr double kRowBound = 0.003;
constexpr int kMaxTokens = 257;
constexpr int kReports = 12;  // failures printed in full

struct Tally {
  int passed = 0, failed = 0;
  void note(bool ok) { ++(ok ? passed : failed); }
};

// The eight values of every lane as halves, in stream order.
template <int kBits>
__global__ void decode_tiles(const unsigned char* words, int codebook, unsigned short* out) {
  const LaneStream<kBits> stream(threadIdx.x);
  u32 a[3], s[8];
  stream.load(words + blockIdx.x * 32 * kBits, a);
  windows<kBits>(a, s);
  for (int i = 0; i < 4; ++i) {
    const bool adds = codebook == static_cast<int>(codec::Codebook::k3inst);
    const u32 pair = codebook == static_cast<int>(codec::Codebook::kMul1)
                         ? mul1_pair(s[2 * i], s[2 * i + 1])
                         : sum_pair(s[2 * i], s[2 * i + 1], adds ? codec::k3instMultiplier : codec::kMcgMultiplier,
                                    adds ? codec::k3instAddend : 0);
    out[blockIdx.x * 256 + threadIdx.x * 8 + 2 * i] = static_cast<unsigned short>(pair & 0xFFFFu);
    out[blockIdx.x * 256 + threadIdx.x * 8 + 2 * i + 1] = static_cast<unsigned short>(pair >> 16);
  }
}

template <int kBits>
void check_decode(Tally& tally) {
  constexpr int kTiles = 64;
  Random random(100 + kBits);
  std::vector<unsigned> words(kTiles * 8 * kBits);
  for (unsigned& w : words) w = static_cast<unsigned>(random.next() >> 32);
  unsigned* words_device = nullptr;
  unsigned short* out_device = nullptr;
  require(cudaMalloc(&words_device, words.size() * 4), "cudaMalloc");
  require(cudaMalloc(&out_device, kTiles * 512), "cudaMalloc");
  require(cudaMemcpy(words_device, words.data(), words.size() * 4, cudaMemcpyHostToDevice), "upload");
  for (int codebook = 0; codebook < 3; ++codebook) {
    decode_tiles<kBits><<<kTiles, 32>>>(reinterpret_cast<unsigned char*>(words_device), codebook, out_device);
    std::vector<unsigned short> out(kTiles * 256);
    require(cudaMemcpy(out.data(), out_device, out.size() * 2, cudaMemcpyDeviceToHost), "decode_tiles");
    int wrong = 0, first = -1;
    for (int i = 0; i < kTiles * 256; ++i) {
      const int p = i % 256;
      const unsigned* tile = words.data() + i / 256 * 8 * kBits;
      const unsigned state =
          codec::window_state(tile[codec::window_previous_word(p, kBits)], tile[codec::window_last_word(p, kBits)],
                              codec::window_shift(p, kBits));
      if (out[i] == codec::codebook_half_bits(static_cast<codec::Codebook>(codebook), state)) continue;
      if (wrong++ == 0) first = p;
    }
    if (wrong > 0)
      std::printf("FAIL decode bits %d codebook %d: %d wrong, first at position %d\n", kBits, codebook, wrong, first);
    tally.note(wrong == 0);
  }
  cudaFree(words_device);
  cudaFree(out_device);
}

enum class Routing { kUniform, kOneForAll, kFewExperts, kUnusedSlots };
constexpr const char* kRoutingNames[] = {"uniform", "one_for_all", "few_experts", "unused_slots"};

// ids [tokens, top_k], distinct within a token.
std::vector<int> make_ids(Random& random, const LayerShape& shape, int tokens, Routing routing) {
  std::vector<int> ids;
  const int usable = routing == Routing::kFewExperts ? std::max(shape.top_k, shape.routed / 2) : shape.routed;
  for (int t = 0; t < tokens; ++t) {
    std::vector<int> pool;
    for (int e = 0; e < usable; ++e) pool.push_back(e);
    for (int j = 0; j < shape.top_k; ++j) std::swap(pool[j], pool[j + random.below(usable - j)]);
    if (routing == Routing::kOneForAll) {
      for (int& e : pool) {
        if (e == usable - 1) std::swap(e, pool[0]);
      }
    }
    for (int j = 0; j < shape.top_k; ++j) {
      ids.push_back(routing == Routing::kUnusedSlots && random.below(3) == 0 ? -1 - random.below(2) * 1000 : pool[j]);
    }
  }
  return ids;
}

// Device buffers that are reused by all runs of a problem.
struct Buffers {
  int* ids = nullptr;
  float *weights = nullptr, *y = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0, y_bytes = 0;

  explicit Buffers(const MoeLayer& layer) {
    workspace_bytes = moe_workspace_bytes(layer, kMaxTokens);
    y_bytes = sizeof(float) * kMaxTokens * layer.hidden;
    require(cudaMalloc(&ids, sizeof(int) * kMaxTokens * (layer.top_k + 1)), "cudaMalloc");
    require(cudaMalloc(&weights, sizeof(float) * kMaxTokens * (layer.top_k + 1)), "cudaMalloc");
    require(cudaMalloc(&y, y_bytes), "cudaMalloc");
    require(cudaMalloc(&workspace, workspace_bytes), "cudaMalloc");
  }
  ~Buffers() {
    for (void* p : {static_cast<void*>(ids), static_cast<void*>(weights), static_cast<void*>(y), workspace})
      cudaFree(p);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
};

std::vector<float> run_once(const Problem& problem, const Buffers& b, int tokens, MoePath path, int poison) {
  const MoeLayer& layer = problem.layer();
  require(cudaMemset(b.workspace, poison, b.workspace_bytes), "poison");
  require(cudaMemset(b.y, poison, b.y_bytes), "poison");
  require(moe_workspace_clear(b.workspace, nullptr), "moe_workspace_clear");
  const MoeCall call{problem.x(), layer.hidden, b.ids, b.weights, tokens, b.y, layer.hidden, nullptr};
  require(moe_swiglu(layer, call, path, b.workspace, nullptr), moe_path_name(path));
  std::vector<float> y(static_cast<std::size_t>(tokens) * layer.hidden);
  require(cudaMemcpy(y.data(), b.y, y.size() * sizeof(float), cudaMemcpyDeviceToHost), moe_path_name(path));
  return y;
}

struct RowErrors {
  double worst = 0;
  int worst_row = 0, bad_rows = 0;
};

std::vector<double> reference_row(Problem& problem, const std::vector<int>& ids, const std::vector<float>& weights,
                                  int t) {
  const LayerShape& shape = problem.shape();
  std::vector<double> y(shape.hidden, 0.0);
  for (int j = 0; j < shape.top_k + shape.shared; ++j) {
    const bool routed = j < shape.top_k;
    const int expert = routed ? ids[t * shape.top_k + j] : shape.routed + j - shape.top_k;
    if (expert < 0) continue;
    const double weight = routed ? weights[t * shape.top_k + j] : 1.0;
    const std::vector<double>& one = problem.expert_output(t, expert);
    for (int n = 0; n < shape.hidden; ++n) y[n] += weight * one[n];
  }
  return y;
}

double row_error(const float* row, const std::vector<double>& reference) {
  double error = 0, norm = 0;
  for (std::size_t n = 0; n < reference.size(); ++n) {
    error += (row[n] - reference[n]) * (row[n] - reference[n]);
    norm += reference[n] * reference[n];
  }
  if (norm == 0) return error == 0 ? 0 : HUGE_VAL;
  return std::isfinite(error) ? std::sqrt(error / norm) : HUGE_VAL;
}

// Where a wrong row is wrong: relative error of each block of 128 outputs, and a few values.
void print_row(const float* row, const std::vector<double>& reference) {
  std::printf("    blocks:");
  for (std::size_t b = 0; b < reference.size(); b += 128) {
    std::printf(" %.2g", row_error(row + b, {reference.begin() + b, reference.begin() + b + 128}));
  }
  std::printf("\n    got/ref:");
  for (int n = 0; n < 8; ++n) std::printf(" %.4g/%.4g", row[n], reference[n]);
  std::printf("\n");
}

void check_case(Problem& problem, const Buffers& b, int tokens, Routing routing, Tally& tally,
                double (&worst)[kMoePaths]) {
  const LayerShape& shape = problem.shape();
  Random random(shape.seed * 1000 + tokens * 10 + static_cast<int>(routing));
  std::vector<int> ids = make_ids(random, shape, tokens, routing);
  std::vector<float> weights;
  for (std::size_t i = 0; i < ids.size(); ++i) weights.push_back(random.uniform(0.1f, 1.0f));
  require(cudaMemcpy(b.ids, ids.data(), ids.size() * sizeof(int), cudaMemcpyHostToDevice), "ids");
  require(cudaMemcpy(b.weights, weights.data(), weights.size() * sizeof(float), cudaMemcpyHostToDevice), "weights");
  std::vector<std::vector<double>> reference;
  for (int t = 0; t < tokens; ++t) reference.push_back(reference_row(problem, ids, weights, t));
  for (int p = 0; p < kMoePaths; ++p) {
    const auto path = static_cast<MoePath>(p);
    if (!moe_path_legal(problem.layer(), path)) continue;
    const std::vector<float> y = run_once(problem, b, tokens, path, 0xFF);
    const std::vector<float> again = run_once(problem, b, tokens, path, 0x7F);
    const bool same = std::memcmp(y.data(), again.data(), y.size() * sizeof(float)) == 0;
    RowErrors errors;
    for (int t = 0; t < tokens; ++t) {
      const double error = row_error(y.data() + static_cast<std::size_t>(t) * shape.hidden, reference[t]);
      if (!(error <= kRowBound)) ++errors.bad_rows;
      if (!(error <= errors.worst)) {
        errors.worst = error;
        errors.worst_row = t;
      }
    }
    if (!(errors.worst <= worst[p])) worst[p] = errors.worst;
    tally.note(errors.bad_rows == 0 && same);
    if ((errors.bad_rows > 0 || !same) && tally.failed <= kReports) {
      std::printf("FAIL %s %s tokens %d %s: worst row %d error %.3g, %d bad rows%s\n", shape.name.c_str(),
                  moe_path_name(path), tokens, kRoutingNames[static_cast<int>(routing)], errors.worst_row, errors.worst,
                  errors.bad_rows, same ? "" : ", two runs differ");
      print_row(y.data() + static_cast<std::size_t>(errors.worst_row) * shape.hidden, reference[errors.worst_row]);
    }
  }
}

void check_layer(const LayerShape& shape, const std::vector<int>& token_counts, int routings, Tally& tally) {
  Problem problem(shape, kMaxTokens);
  const Buffers buffers(problem.layer());
  double worst[kMoePaths] = {};
  const int failed_before = tally.failed;
  for (const int tokens : token_counts) {
    for (int r = 0; r < routings; ++r) check_case(problem, buffers, tokens, static_cast<Routing>(r), tally, worst);
  }
  std::printf("%-28s", shape.name.c_str());
  for (int p = 0; p < kMoePaths; ++p) std::printf("  %s %.1e", moe_path_name(static_cast<MoePath>(p)), worst[p]);
  std::printf("  %s\n", tally.failed == failed_before ? "ok" : "FAILED");
  std::fflush(stdout);
}

int run(bool quick) {
  Tally tally;
#define FAIRWAY_CASE(bits) check_decode<bits>(tally);
  FAIRWAY_FOR_EACH_BITS(FAIRWAY_CASE)
#undef FAIRWAY_CASE
  std::printf("decode of single tiles: %d passed, %d failed\n", tally.passed, tally.failed);
  constexpr int kMul1 = static_cast<int>(codec::Codebook::kMul1);
  const std::vector<int> few{1, 2, 5, 17}, all{1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 33, 64, 100, 257};
  for (int bits = 1; bits <= 8; ++bits) {
    check_layer({"mul1, " + std::to_string(bits) + " bits", 3, 0, 1, 256, 128, bits, kMul1, true, 10u + bits}, few, 1,
                tally);
  }
  for (int codebook = 0; codebook < 2; ++codebook) {
    check_layer({codebook == 0 ? "3inst, 3 bits" : "mcg, 3 bits", 3, 0, 1, 256, 128, 3, codebook, true, 20u + codebook},
                few, 1, tally);
  }
  check_layer({"mixed widths, mul1", 6, 1, 3, 256, 384, 0, kMul1, true, 31}, all, 4, tally);
  check_layer({"mixed widths, separate suh", 6, 1, 3, 384, 256, 0, kMul1, false, 32}, all, 4, tally);
  check_layer({"mixed widths and codebooks", 8, 2, 4, 128, 256, 0, -1, false, 33}, all, 4, tally);
  check_layer({"mixed codebooks, common suh", 5, 0, 2, 640, 128, 0, -1, true, 34}, all, quick ? 1 : 4, tally);
  check_layer({"wide, 3 bits", 4, 1, 2, 2048, 256, 3, kMul1, true, 35}, quick ? few : all, quick ? 1 : 4, tally);
  if (!quick) {
    check_layer({"many experts", 128, 1, 8, 256, 128, 4, kMul1, false, 36}, all, 4, tally);
    check_layer({"large, mixed widths", 4, 1, 2, 2048, 1536, 0, kMul1, false, 37}, few, 2, tally);
  }
  std::printf("bound of a row: %.3g\n%d passed, %d failed\n", kRowBound, tally.passed, tally.failed);
  return tally.failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace fairway::kernels::cuda::check

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
  return fairway::kernels::cuda::check::run(argc > 1 && std::string_view(argv[1]) == "--quick");
}
