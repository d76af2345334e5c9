// From logits on the device to the next token, and to log-probabilities of given tokens.
#pragma once

#include <cuda_runtime.h>

namespace fairway::kernels::cuda {

// Device pointers, strides in elements.
struct GreedyCall {
  const float* logits;  // [rows, vocab], row stride ld >= vocab; faster if 16-byte aligned with ld a multiple of 4
  long long ld;
  int vocab, rows;     // >= 1; vocab: at most 2^21
  int* ids;            // [rows]
  int* position;       // [rows] or null: positions[r] += 1 after the choice
  int* history;        // [rows, history_stride] or null: the last history_stride ids, needs `position`:
  int history_stride;  // history[r, new position[r] modulo history_stride] = ids[r]; below 0: none
};

// ids[r] = the place of the largest logit of row r; ties go to the lower id, NaN never wins, a row without a number
// gives 0. The same as kernels/sample with temperature 0. Error(kUsage) if a number is out of range.
void greedy(const GreedyCall& call, cudaStream_t stream);

struct LogprobCall {
  const float* logits;  // as above
  long long ld;
  int vocab, rows;
  const int* targets;  // [rows]
  float* logprobs;     // [rows], natural logarithms
};

// logprobs[r] = logits[r, targets[r]] - log(sum over i of exp(logits[r, i])). The exponentials are fp32, relative to
// the largest logit of the row, their sums double in a fixed order. NaN if a logit of the row is NaN or
// +infinity, or all are -infinity, or if the target is not in 0..vocab-1. Error(kUsage) if a number is out of range.
void logprob(const LogprobCall& call, cudaStream_t stream);

constexpr int kMaxSampledVocabulary = 163840;

struct SampleTopCall {
  const float* logits;  // as above
  long long ld;
  int vocab, rows;  // vocab: at most kMaxSampledVocabulary
  float temperature;
  int top_k;                      // 0: off
  float top_p;                    // (0, 1]; 1: off
  float min_p;                    // [0, 1); 0: off
  unsigned long long* states;     // [rows] of the random number generator; the first is the seed
  int *ids, *position, *history;  // as in GreedyCall
  int history_stride;
};

// Draws ids[r] as Sampler::sample() of kernels/sample does without a repetition penalty: the same order of filters and
// of candidates, the same random numbers, one for every draw. Sums of weights are double as there, but added in
// another (fixed) order: the same token but where a sum is within some 1e-15 of the value that decides. Error(kUsage)
// if a number is out of range, Error(kUnsupported) for a larger vocabulary.
void sample_top(const SampleTopCall& call, cudaStream_t stream);

// Whether it is possible on the current device, which has to have room for the CTAs of a row at the same time. On GPUs
// without clusters these launches must follow each other, on one stream or on streams that wait for each other.
bool sample_top_fits(int vocab);

}  // namespace fairway::kernels::cuda
