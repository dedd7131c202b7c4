#include "runtime/sampler.h"

namespace quire {
namespace {

/// What prompt and output rows have in common.
SampleRow distribution_row(const SamplingParams& params, LogprobsMode mode) {
  SampleRow row;
  row.raw_logprobs = mode == LogprobsMode::kRaw ? 1 : 0;
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

void SampleBatch::clear() {
  token_rows.clear();
  rows.clear();
  ids.clear();
  biases.clear();
}

void SampleBatch::add(int32_t token_row, const SampleRow& row) {
  token_rows.push_back(token_row);
  rows.push_back(row);
}

SampleRow next_token_row(const SamplerState& state, LogprobsMode mode, SampleBatch& batch) {
  const SamplingParams& params = state.params;
  SampleRow row = distribution_row(params, mode);
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.repetition_penalty = params.repetition_penalty;
  row.seed = state.seed;
  row.sequence = state.index;
  row.position = state.tokens.size();
  row.num_logprobs = params.logprobs.value_or(-1);

  row.first_id = static_cast<int32_t>(batch.ids.size());
  const auto list = [&batch](std::span<const int32_t> ids) {
    batch.ids.insert(batch.ids.end(), ids.begin(), ids.end());
    return static_cast<int32_t>(ids.size());
  };
  const bool repetition = params.repetition_penalty != 1.0f;
  const std::span<const int32_t> output = state.tokens.subspan(state.num_prompt_tokens);
  if (repetition) row.num_prompt_ids = list(state.tokens.first(state.num_prompt_tokens));
  if (repetition || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f) {
    row.num_output_ids = list(output);
  }
  if (output.size() < static_cast<size_t>(params.min_tokens)) row.num_masked_ids = list(state.end_ids);

  row.first_bias = static_cast<int32_t>(batch.biases.size());
  row.num_biases = static_cast<int32_t>(params.logit_bias.size());
  for (const auto& [token, bias] : params.logit_bias) batch.biases.push_back({token, bias});
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
