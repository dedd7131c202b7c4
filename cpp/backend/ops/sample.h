#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace quire {

class Stream;

/// How one row of logits becomes a token. Spans are in host memory and valid during the call.
struct SampleRow {
  float temperature = 1.0f;  ///< 0: the best token
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = -1;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  std::span<const int32_t> prompt_ids;  ///< for the repetition penalty
  std::span<const int32_t> output_ids;  ///< for all three penalties
  std::span<const int32_t> masked_ids;  ///< set to -inf: end tokens before min_tokens
  std::span<const std::pair<int32_t, float>> logit_bias;
  /// The draw is philox4x32-10(key = seed, counter = (position, sequence)), its first word.
  uint64_t seed = 0;
  uint32_t sequence = 0;
  uint64_t position = 0;
  /// >= 0: no draw; report this token's own log-probability (a prompt's).
  int32_t given_token = -1;
  /// Best tokens reported beside the chosen one; -1: no log-probabilities at all.
  int32_t num_logprobs = -1;
  /// Report log-probabilities of the model's own logits rather than of the changed ones.
  bool raw_logprobs = false;
};

struct SampledCandidate {
  int32_t token = 0;
  int32_t rank = 0;  ///< 1 for the most likely; ties go to the smaller id
  float logprob = 0.0f;
};

struct SampleResult {
  int32_t token = 0;
  /// False if a logit was NaN, or +inf, or all were -inf: no token was chosen.
  bool finite = true;
  /// Of the chosen token; needed for cumulative log-probabilities, so always set. Same distribution as candidates.
  float logprob = 0.0f;
  /// The chosen token first, then the best ones in falling order (the chosen one again if it is among them is left
  /// out). Empty if num_logprobs < 0.
  std::vector<SampledCandidate> candidates;
};

/// Rows in, tokens out. Order: bias, mask, repetition, frequency, presence, temperature, top_k, top_p, min_p, softmax,
/// one uniform draw inverted over the kept tokens in order of id.
struct SampleArgs {
  Tensor logits;                    ///< [R, V] float32; overwritten
  std::span<const SampleRow> rows;  ///< [R]
  std::span<SampleResult> results;  ///< [R]
};
using SampleFn = void (*)(const SampleArgs&, Stream&);

}  // namespace quire
