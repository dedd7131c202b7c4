#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace quire {

class Stream;

/// How one row of logits becomes a token. Plain data, read by the device; lists lie in SampleArgs::ids and ::biases.
struct SampleRow {
  float temperature = 1.0f;  ///< below 1e-5: the best token
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = -1;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  /// Ids of the prompt (for the repetition penalty), of the output (for all three penalties), and of tokens set to -inf
  /// (end tokens before min_tokens), in this order from ids[first_id] on.
  int32_t first_id = 0;
  int32_t num_prompt_ids = 0;
  int32_t num_output_ids = 0;
  int32_t num_masked_ids = 0;
  /// Added to logits, from biases[first_bias] on.
  int32_t first_bias = 0;
  int32_t num_biases = 0;
  /// >= 0: no draw; report this token's own log-probability (a prompt's), without biases, masks and penalties.
  int32_t given_token = -1;
  /// Best tokens reported beside the chosen one; -1: no candidates at all.
  int32_t num_logprobs = -1;
  /// Not 0: report log-probabilities of the model's own logits rather than of the changed ones.
  int32_t raw_logprobs = 0;
  /// The draw is philox4x32-10(key = seed, counter = (position, sequence)), its first word.
  uint64_t seed = 0;
  uint64_t position = 0;
  uint32_t sequence = 0;
  uint32_t unused = 0;  ///< no padding is left, so that rows can be compared and copied as bytes
};
static_assert(sizeof(SampleRow) == 88);

struct TokenBias {
  int32_t token = 0;
  float bias = 0.0f;
};

struct SampledToken {
  int32_t token = 0;
  /// Of the chosen token, in the same distribution as candidates; always set.
  float logprob = 0.0f;
  /// 0 if a logit was NaN, or +inf, or all were -inf: no token was chosen.
  int32_t finite = 1;
  int32_t num_candidates = 0;
};

struct SampledCandidate {
  int32_t token = 0;
  int32_t rank = 0;  ///< 1 for the most likely; ties go to the smaller id
  float logprob = 0.0f;
};

/// Rows in, tokens out. Order: bias, mask, repetition, frequency, presence, temperature, top_k, top_p, min_p, softmax,
/// one uniform draw inverted over the kept tokens in order of id.
///
/// All arrays are in the backend's memory.
struct SampleArgs {
  Tensor logits;                    ///< [R, V] float32; overwritten
  const SampleRow* rows = nullptr;  ///< [R]
  const int32_t* ids = nullptr;
  const TokenBias* biases = nullptr;
  SampledToken* tokens = nullptr;  ///< [R], out
  /// [R, max_candidates], out. The chosen token first, then the best ones in falling order (the chosen one again if it
  /// is among them is left out). No row asks for more than max_candidates - 1.
  SampledCandidate* candidates = nullptr;
  int32_t max_candidates = 0;
  void* scratch = nullptr;  ///< Backend::sample_scratch_bytes()
};
using SampleFn = void (*)(const SampleArgs&, Stream&);

/// ids[i] = tokens[-1 - ids[i]].token for every negative ids[i]: tokens of the step before, which the host has not seen
/// when it plans this one.
struct ResolveArgs {
  int32_t* ids = nullptr;
  /// Ids there are, in the backend's memory, so that a recorded graph serves any number.
  const int32_t* count = nullptr;
  const SampledToken* tokens = nullptr;
};
using ResolveFn = void (*)(const ResolveArgs&, Stream&);

}  // namespace quire
