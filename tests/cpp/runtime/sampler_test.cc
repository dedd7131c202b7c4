#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace quire {
namespace {

const std::vector<int32_t> kTokens = {10, 11, 12, 20, 21};  // three of prompt, two of output
const std::vector<int32_t> kEndIds = {2, 7};

SamplerState state_of(const SamplingParams& params) {
  return {.params = params, .tokens = kTokens, .num_prompt_tokens = 3, .end_ids = kEndIds, .seed = 99, .index = 4};
}

SampleRow row_of(const SamplingParams& params, LogprobsMode mode = LogprobsMode::kProcessed) {
  SampleBatch batch;
  return next_token_row(state_of(params), mode, batch);
}

std::vector<int32_t> part(const SampleBatch& batch, int32_t first, int32_t count) {
  return {batch.ids.begin() + first, batch.ids.begin() + first + count};
}

TEST(NextTokenRow, passes_every_parameter_on) {
  const SamplingParams params{.presence_penalty = 0.5f,
                              .frequency_penalty = 0.25f,
                              .repetition_penalty = 1.5f,
                              .temperature = 0.7f,
                              .top_p = 0.9f,
                              .top_k = 40,
                              .min_p = 0.05f,
                              .logprobs = 3,
                              .logit_bias = {{5, -1.0f}}};
  const SampleRow row = row_of(params);
  EXPECT_EQ(row.temperature, 0.7f);
  EXPECT_EQ(row.top_p, 0.9f);
  EXPECT_EQ(row.top_k, 40);
  EXPECT_EQ(row.min_p, 0.05f);
  EXPECT_EQ(row.presence_penalty, 0.5f);
  EXPECT_EQ(row.frequency_penalty, 0.25f);
  EXPECT_EQ(row.repetition_penalty, 1.5f);
  EXPECT_EQ(row.num_logprobs, 3);
  EXPECT_EQ(row.num_biases, 1);
  EXPECT_EQ(row.given_token, -1);
  EXPECT_EQ(row.raw_logprobs, 0);
}

TEST(NextTokenRow, keys_the_draw_by_seed_sequence_and_position) {
  const SampleRow row = row_of({}, LogprobsMode::kRaw);
  EXPECT_EQ(row.seed, 99u);
  EXPECT_EQ(row.sequence, 4u);
  EXPECT_EQ(row.position, 5u);
  EXPECT_EQ(row.num_logprobs, -1);
  EXPECT_EQ(row.raw_logprobs, 1);
}

TEST(NextTokenRow, puts_its_lists_behind_those_that_are_there) {
  SampleBatch batch;
  batch.ids = {1, 1, 1};
  batch.biases = {{1, 1.0f}};
  const SamplingParams params{.repetition_penalty = 1.5f, .min_tokens = 3, .logit_bias = {{5, -1.0f}}};
  const SampleRow row = next_token_row(state_of(params), LogprobsMode::kProcessed, batch);
  EXPECT_EQ(row.first_id, 3);
  EXPECT_EQ(part(batch, 3, row.num_prompt_ids), (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(part(batch, 6, row.num_output_ids), (std::vector<int32_t>{20, 21}));
  EXPECT_EQ(part(batch, 8, row.num_masked_ids), kEndIds);
  EXPECT_EQ(batch.ids.size(), 10u);
  EXPECT_EQ(row.first_bias, 1);
  EXPECT_EQ(row.num_biases, 1);
  EXPECT_EQ(batch.biases.back().token, 5);
  EXPECT_EQ(batch.biases.back().bias, -1.0f);
}

TEST(NextTokenRow, brings_no_ids_that_no_penalty_asks_for) {
  SampleBatch batch;
  next_token_row(state_of({.temperature = 0.5f}), LogprobsMode::kProcessed, batch);
  EXPECT_TRUE(batch.ids.empty());
  EXPECT_EQ(next_token_row(state_of({.presence_penalty = 0.5f}), LogprobsMode::kProcessed, batch).num_output_ids, 2);
  EXPECT_EQ(batch.ids.size(), 2u) << "only the repetition penalty looks at the prompt";
}

TEST(NextTokenRow, masks_end_ids_until_min_tokens_are_there) {
  EXPECT_EQ(row_of({.min_tokens = 2}).num_masked_ids, 0);
  EXPECT_EQ(row_of({.min_tokens = 3}).num_masked_ids, 2);
}

TEST(NextTokenRow, switches_truncation_off_where_the_best_token_is_taken) {
  const SamplingParams params{.temperature = 1e-6f, .top_p = 0.1f, .top_k = 1, .min_p = 0.9f};
  const SampleRow row = row_of(params);
  EXPECT_EQ(row.temperature, 0.0f);
  EXPECT_EQ(row.top_p, 1.0f);
  EXPECT_EQ(row.top_k, -1);
  EXPECT_EQ(row.min_p, 0.0f);
}

TEST(PromptTokenRow, asks_for_the_given_token_without_penalties_biases_or_masks) {
  const SamplingParams params{.presence_penalty = 1.0f,
                              .repetition_penalty = 2.0f,
                              .temperature = 0.5f,
                              .min_tokens = 1,
                              .prompt_logprobs = 2,
                              .logit_bias = {{5, -1.0f}}};
  const SampleRow row = prompt_token_row(params, 42, LogprobsMode::kProcessed);
  EXPECT_EQ(row.given_token, 42);
  EXPECT_EQ(row.num_logprobs, 2);
  EXPECT_EQ(row.temperature, 0.5f);
  EXPECT_EQ(row.presence_penalty, 0.0f);
  EXPECT_EQ(row.repetition_penalty, 1.0f);
  EXPECT_EQ(row.num_masked_ids, 0);
  EXPECT_EQ(row.num_biases, 0);
}

TEST(DeriveSeed, repeats_for_equal_input_and_differs_for_neighbours) {
  EXPECT_EQ(derive_seed(3, 5), derive_seed(3, 5));
  std::set<uint64_t> seen;
  for (int64_t engine = -8; engine < 8; ++engine) {
    for (uint64_t request = 0; request < 64; ++request) seen.insert(derive_seed(engine, request));
  }
  EXPECT_EQ(seen.size(), 16u * 64u);
}

}  // namespace
}  // namespace quire
