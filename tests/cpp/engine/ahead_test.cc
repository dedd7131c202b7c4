// An engine whose device runs behind its host: steps are launched before the last one's results are there.
#include <gtest/gtest.h>

#include <vector>

#include "engine/generate.h"
#include "engine/late_backend.h"
#include "engine/tiny_model.h"

namespace quire {
namespace {

class Ahead : public testing::Test {
 protected:
  std::unique_ptr<Engine> create(EngineConfig config = {}) {
    config.model = folder_.path();
    config.num_threads = 1;
    OpenModel model = open_model(config);
    model.backends[0] = std::make_unique<LateBackend>(std::move(model.backends[0]));
    return start_engine(std::move(model));
  }

  static Request request(uint32_t seed, int32_t max_tokens) {
    Request request{.prompt_token_ids = random_prompt(seed, 4 + static_cast<int32_t>(seed % 9))};
    request.sampling.temperature = seed % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.seed = seed;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = max_tokens;
    request.sampling.logprobs = 0;
    if (seed % 3 == 0) request.sampling.repetition_penalty = 1.2f;
    if (seed % 5 == 0) request.sampling.frequency_penalty = 0.5f;
    return request;
  }

  static std::vector<Request> requests(uint32_t count) {
    std::vector<Request> all;
    for (uint32_t i = 0; i < count; ++i) all.push_back(request(i, 20 + static_cast<int32_t>(i)));
    return all;
  }

  static std::vector<std::vector<std::vector<std::pair<int32_t, float>>>> all_bits(const std::vector<Output>& outputs) {
    std::vector<std::vector<std::vector<std::pair<int32_t, float>>>> all;
    for (const Output& output : outputs) all.push_back(bits(output));
    return all;
  }

  const TinyModelFolder folder_;
};

TEST_F(Ahead, recorded_steps_give_what_others_give) {
  const auto plain = Engine::create({.model = folder_.path(), .num_threads = 1});
  const auto expected = all_bits(generate(*plain, requests(12)));
  const int64_t before = LateBackend::num_graph_launches;
  EXPECT_EQ(all_bits(generate(*create({.enforce_eager = true}), requests(12))), expected);
  EXPECT_EQ(LateBackend::num_graph_launches, before);
  EXPECT_EQ(all_bits(generate(*create(), requests(12))), expected);
  EXPECT_GT(LateBackend::num_graph_launches, before + 15);
}

TEST_F(Ahead, a_request_takes_one_step_per_token_if_its_length_ends_it) {
  const auto engine = create();
  const int64_t before = engine->stats().num_steps;
  generate(*engine, request(2, 10));
  EXPECT_EQ(engine->stats().num_steps - before, 10) << "the last token is known to be the last before it is known";
}

TEST_F(Ahead, a_token_that_ends_a_request_costs_one_step_more_and_no_token) {
  const auto engine = create();
  const Output whole = generate(*engine, request(2, 10));
  Request stopped = request(2, 10);
  stopped.sampling.stop_token_ids = {whole.sequences[0].token_ids[4]};
  const int64_t generated = engine->stats().num_generated_tokens;
  const Output output = generate(*engine, stopped);
  EXPECT_EQ(output.sequences[0].finish_reason, FinishReason::kStop);
  EXPECT_LE(output.sequences[0].token_ids.size(), 5u);
  EXPECT_EQ(engine->stats().num_generated_tokens - generated,
            static_cast<int64_t>(output.sequences[0].token_ids.size()));
  EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
}

TEST_F(Ahead, a_step_whose_results_do_not_come_ends_its_requests_and_leaves_the_engine_usable) {
  const auto engine = create();
  const auto expected = all_bits(generate(*engine, requests(4)));
  for (int round = 0; round < 4; ++round) {
    LateBackend::num_failing_waits = 1;
    int failed = 0;
    for (const Output& output : generate(*engine, requests(4))) {
      if (output.error.empty()) continue;
      ++failed;
      EXPECT_EQ(output.sequences[0].finish_reason, FinishReason::kError);
    }
    EXPECT_GE(failed, 1);
    EXPECT_EQ(all_bits(generate(*engine, requests(4))), expected);
    EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
  }
}

TEST_F(Ahead, prompt_logprobs_are_those_of_a_device_that_is_waited_for) {
  Request asked = request(1, 8);
  asked.prompt_token_ids = random_prompt(3, 50);
  asked.sampling.prompt_logprobs = 2;
  const auto values = [](const Output& output) {
    std::vector<float> flat;
    for (const PositionLogprobs& position : output.prompt_logprobs) {
      for (const TokenLogprob& candidate : position) flat.push_back(candidate.logprob);
    }
    return flat;
  };
  const auto plain = Engine::create({.model = folder_.path(), .num_threads = 1});
  const std::vector<float> expected = values(generate(*plain, asked));
  EXPECT_EQ(expected.size(), values(generate(*create(), asked)).size());
  EXPECT_EQ(values(generate(*create(), asked)), expected);
  EXPECT_EQ(values(generate(*create({.max_num_batched_tokens = 7}), asked)), expected);
}

}  // namespace
}  // namespace quire
