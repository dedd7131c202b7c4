// A request's tokens and log-probabilities are the same to the last bit whatever else happens in the engine.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "engine/generate.h"
#include "engine/tiny_model.h"

namespace quire {
namespace {

using Bits = std::vector<std::vector<std::pair<int32_t, float>>>;

/// Prompts short and long, with shared beginnings, greedy and drawn, with penalties, n > 1 and prompt
/// log-probabilities.
std::vector<Request> mixed_requests() {
  std::vector<Request> requests;
  const std::vector<int32_t> shared = random_prompt(77, 40);
  for (uint32_t i = 0; i < 10; ++i) {
    Request request;
    if (i % 2 == 0) request.prompt_token_ids = shared;
    const std::vector<int32_t> own = random_prompt(i, 1 + static_cast<int32_t>(i * 3));
    request.prompt_token_ids.insert(request.prompt_token_ids.end(), own.begin(), own.end());
    SamplingParams& params = request.sampling;
    params.temperature = i % 3 == 0 ? 0.0f : 0.9f;
    params.seed = i;
    params.max_tokens = 12 + static_cast<int32_t>(i);
    params.ignore_eos = true;
    params.logprobs = 2;
    if (i % 4 == 1) params.repetition_penalty = 1.3f;
    if (i % 4 == 2) params.top_k = 20;
    if (i % 4 == 3) params.top_p = 0.8f;
    if (i == 4) params.n = 3;
    if (i == 7) params.n = 12;  // more rows of logits than a small engine holds at a time
    if (i == 5) params.prompt_logprobs = 1;
    requests.push_back(std::move(request));
  }
  return requests;
}

/// On one rank, and on two.
class Invariance : public testing::TestWithParam<int32_t> {
 protected:
  static void SetUpTestSuite() { folder_ = std::make_unique<TinyModelFolder>(); }
  static void TearDownTestSuite() {
    folder_.reset();
    alone_.clear();
  }

  static EngineConfig config() {
    return {.model = folder_->path(), .tensor_parallel_size = GetParam(), .num_threads = 2};
  }

  /// Each request alone, in an engine of its own, with nothing to reuse.
  static const std::vector<Bits>& alone() {
    std::vector<Bits>& all = alone_[GetParam()];
    if (!all.empty()) return all;
    EngineConfig single = config();
    single.enable_prefix_caching = false;
    single.num_threads = 1;
    for (const Request& request : mixed_requests()) all.push_back(bits(generate(*create_engine(single), request)));
    return all;
  }

  static void expect_as_alone(const std::vector<Output>& outputs) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      EXPECT_EQ(bits(outputs[i]), alone()[i % alone().size()]) << "request " << i << ": " << outputs[i].error;
    }
  }

  static inline std::unique_ptr<TinyModelFolder> folder_;
  static inline std::map<int32_t, std::vector<Bits>> alone_;
};

INSTANTIATE_TEST_SUITE_P(Ranks, Invariance, testing::Values(1, 2));

TEST_P(Invariance, batched_together_equals_alone) {
  const auto engine = create_engine(config());
  expect_as_alone(generate(*engine, mixed_requests()));
}

TEST_P(Invariance, chunked_by_seven_tokens_equals_alone) {
  EngineConfig chunked = config();
  chunked.max_num_batched_tokens = 7;
  const auto engine = create_engine(chunked);
  expect_as_alone(generate(*engine, mixed_requests()));
}

TEST_P(Invariance, preempted_with_twelve_blocks_equals_alone) {
  EngineConfig small = config();
  small.num_blocks_override = 12;
  small.block_size = 8;
  const auto engine = create_engine(small);
  Gate gate(*engine);
  expect_as_alone(generate(*engine, mixed_requests(), &gate));
  EXPECT_GT(engine->stats().num_preemptions, 0);
  EXPECT_EQ(engine->stats().num_free_blocks, 12);
}

TEST_P(Invariance, warm_prefix_cache_equals_alone) {
  const auto engine = create_engine(config());
  generate(*engine, mixed_requests());
  const int64_t cached_before = engine->stats().num_cached_tokens;
  const std::vector<Output> outputs = generate(*engine, mixed_requests());
  expect_as_alone(outputs);
  EXPECT_GT(engine->stats().num_cached_tokens, cached_before + 100);
  EXPECT_GT(outputs[8].num_cached_tokens, 32);
  EXPECT_EQ(outputs[5].num_cached_tokens, 0) << "its prompt log-probabilities need every row";
}

TEST_P(Invariance, every_block_size_equals_alone) {
  for (const int32_t block_size : {8, 32, 128}) {
    EngineConfig other = config();
    other.block_size = block_size;
    expect_as_alone(generate(*create_engine(other), mixed_requests()));
  }
}

TEST_P(Invariance, holds_for_the_portable_kernels_as_well) {
  EngineConfig portable = config();
  portable.device = "cpu:portable";
  const std::vector<Output> together = generate(*create_engine(portable), mixed_requests());
  portable.max_num_batched_tokens = 7;
  portable.num_blocks_override = 12;
  portable.block_size = 8;
  const std::vector<Output> crowded = generate(*create_engine(portable), mixed_requests());
  portable.enable_prefix_caching = false;
  for (size_t i = 0; i < together.size(); ++i) {
    const Bits alone = bits(generate(*create_engine(portable), mixed_requests()[i]));
    EXPECT_EQ(bits(together[i]), alone) << "request " << i;
    EXPECT_EQ(bits(crowded[i]), alone) << "request " << i;
  }
}

TEST_P(Invariance, deltas_joined_equal_the_final_output) {
  const auto engine = create_engine(config());
  std::vector<Request> requests = mixed_requests();
  const std::vector<Output> whole = generate(*engine, requests);
  for (Request& request : requests) request.output_kind = OutputKind::kDelta;
  const std::vector<Output> joined = generate(*engine, requests);
  expect_as_alone(joined);
  for (size_t i = 0; i < whole.size(); ++i) {
    ASSERT_EQ(joined[i].sequences.size(), whole[i].sequences.size());
    for (size_t k = 0; k < whole[i].sequences.size(); ++k) {
      EXPECT_EQ(joined[i].sequences[k].text, whole[i].sequences[k].text);
      EXPECT_EQ(joined[i].sequences[k].cumulative_logprob, whole[i].sequences[k].cumulative_logprob);
    }
    EXPECT_EQ(joined[i].prompt_logprobs.size(), whole[i].prompt_logprobs.size());
  }
}

TEST_P(Invariance, prompt_logprobs_are_the_same_in_one_piece_chunked_and_preempted) {
  Request request{.prompt_token_ids = random_prompt(3, 60),
                  .sampling = {.temperature = 0.0f, .ignore_eos = true, .max_tokens = 8, .prompt_logprobs = 3}};
  const auto values = [](const Output& output) {
    std::vector<float> flat;
    for (const PositionLogprobs& position : output.prompt_logprobs) {
      for (const TokenLogprob& candidate : position) flat.push_back(candidate.logprob);
    }
    return flat;
  };
  const auto engine = create_engine(config());
  const Output expected = generate(*engine, request);
  ASSERT_EQ(expected.prompt_logprobs.size(), 60u);
  EXPECT_TRUE(expected.prompt_logprobs[0].empty());
  for (size_t i = 1; i < 60; ++i) EXPECT_EQ(expected.prompt_logprobs[i][0].token_id, request.prompt_token_ids[i]);

  EngineConfig chunked = config();
  chunked.max_num_batched_tokens = 7;
  EXPECT_EQ(values(generate(*create_engine(chunked), request)), values(expected));

  // The first request grows while the prompts behind it are computed in small pieces, and takes their blocks.
  EngineConfig small = config();
  small.num_blocks_override = 10;
  small.block_size = 8;
  small.max_num_batched_tokens = 4;
  const auto crowded = create_engine(small);
  std::vector<Request> requests(3, request);
  requests[0].prompt_token_ids = random_prompt(4, 4);
  requests[0].sampling.max_tokens = 60;
  Gate gate(*crowded);
  const std::vector<Output> outputs = generate(*crowded, requests, &gate);
  EXPECT_GT(crowded->stats().num_preemptions, 0);
  EXPECT_EQ(values(outputs[1]), values(expected));
  EXPECT_EQ(values(outputs[2]), values(expected));
}

}  // namespace
}  // namespace quire
