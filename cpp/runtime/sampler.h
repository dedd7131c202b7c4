#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/ops/sample.h"
#include "quire/config.h"
#include "quire/sampling.h"

namespace quire {

/// Which rows of a step's tokens become logits, and what becomes of each. Kept from step to step, so that a steady
/// state allocates nothing.
struct SampleBatch {
  std::vector<int32_t> token_rows;  ///< by row: index into the step's tokens; any order, repetitions allowed
  std::vector<SampleRow> rows;
  std::vector<int32_t> ids;       ///< lists that rows name; -1 - r stands for row r of the step before, not yet read
  std::vector<TokenBias> biases;  ///< likewise

  int32_t size() const { return static_cast<int32_t>(rows.size()); }
  void clear();
  void add(int32_t token_row, const SampleRow& row);
};

/// The state of a sequence that its next token depends on. Valid while a row is made.
struct SamplerState {
  const SamplingParams& params;
  std::span<const int32_t> tokens;  ///< prompt, then output
  int32_t num_prompt_tokens = 0;
  /// Masked before SamplingParams::min_tokens.
  std::span<const int32_t> end_ids;
  uint64_t seed = 0;
  /// Which of the request's n.
  uint32_t index = 0;
};

/// How the sequence's next token is chosen; what it needs of lists is added to `batch`.
SampleRow next_token_row(const SamplerState& state, LogprobsMode mode, SampleBatch& batch);

/// Ask for the log-probability of a prompt's token in the row before it. Temperature and truncation apply, biases,
/// masks and penalties do not, as in vLLM 0.4.0.
SampleRow prompt_token_row(const SamplingParams& params, int32_t token, LogprobsMode mode);

/// Ask for nothing but SampledToken::finite.
SampleRow finiteness_row();

/// Seed of a request that brought none: a hash of the engine's seed and the request's number, so that runs with equal
/// seed and order of submission repeat.
uint64_t derive_seed(int64_t engine_seed, uint64_t request_number);

}  // namespace quire
