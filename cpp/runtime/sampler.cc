#include "runtime/sampler.h"

namespace quire {
namespace {

/// What prompt and output rows have in common.
SampleRow distribution_row(const SamplingParams& params, LogprobsMode mode) {
  SampleRow row;
  row.raw_logprobs = mode == LogprobsMode::kRaw;
  if (params.greedy()) {
    row.temperature = 0.0f;
    return row;
  }
  row.temperature = params.temperature;
  row.top_p = params.top_p;
  row.top_k = params.top_k;
  row.min_p = params.min_p;
  return row;
}

/// One step of splitmix64. Source: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

SampleRow next_token_row(const SamplerState& state, LogprobsMode mode) {
  const SamplingParams& params = state.params;
  SampleRow row = distribution_row(params, mode);
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.repetition_penalty = params.repetition_penalty;
  row.prompt_ids = state.tokens.first(state.num_prompt_tokens);
  row.output_ids = state.tokens.subspan(state.num_prompt_tokens);
  if (row.output_ids.size() < static_cast<size_t>(params.min_tokens)) row.masked_ids = state.end_ids;
  row.logit_bias = params.logit_bias;
  row.seed = state.seed;
  row.sequence = state.index;
  row.position = state.tokens.size();
  row.num_logprobs = params.logprobs.value_or(-1);
  return row;
}

SampleRow prompt_token_row(const SamplingParams& params, int32_t token, LogprobsMode mode) {
  SampleRow row = distribution_row(params, mode);
  row.given_token = token;
  row.num_logprobs = params.prompt_logprobs.value_or(-1);
  return row;
}

SampleRow finiteness_row() {
  SampleRow row;
  row.temperature = 0.0f;
  row.given_token = 0;
  return row;
}

uint64_t derive_seed(int64_t engine_seed, uint64_t request_number) {
  return mix(mix(static_cast<uint64_t>(engine_seed)) ^ request_number);
}

}  // namespace quire
