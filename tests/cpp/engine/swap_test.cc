// Requests of several sequences that are swapped out and come back get what they would have got without.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <new>
#include <vector>

#include "engine/forwarding_backend.h"
#include "engine/generate.h"
#include "engine/tiny_model.h"

namespace quire {
namespace {

using Bits = std::vector<std::vector<std::pair<int32_t, float>>>;

Request request(uint32_t seed, int32_t num_sequences, int32_t max_tokens) {
  Request request{.prompt_token_ids = random_prompt(seed, 3 + static_cast<int32_t>(seed % 15))};
  SamplingParams& params = request.sampling;
  params.n = num_sequences;
  params.temperature = seed % 5 == 0 ? 0.0f : 0.9f;
  params.seed = seed;
  params.ignore_eos = true;
  params.max_tokens = max_tokens;
  params.logprobs = 1;
  if (seed % 3 == 0) params.frequency_penalty = 0.4f;
  return request;
}

/// Groups of up to four sequences and single ones, drawn and greedy.
std::vector<Request> mixed_requests(uint32_t count) {
  std::vector<Request> requests;
  for (uint32_t i = 0; i < count; ++i) {
    requests.push_back(request(i, 1 + static_cast<int32_t>(i % 4), 10 + static_cast<int32_t>(i % 23)));
  }
  return requests;
}

std::vector<Bits> all_bits(const std::vector<Output>& outputs) {
  std::vector<Bits> all;
  for (const Output& output : outputs) all.push_back(bits(output));
  return all;
}

class Swapping : public testing::Test {
 protected:
  /// With room for everything.
  std::vector<Bits> unconstrained(const std::vector<Request>& requests) {
    return all_bits(generate(*create_engine({.model = folder_.path(), .num_threads = 1}), requests));
  }

  EngineConfig crowded(int32_t num_blocks) const {
    return {.model = folder_.path(),
            .max_model_len = 64,
            .block_size = 8,
            .num_blocks_override = num_blocks,
            .num_threads = 1};
  }

  static void expect_all_free(const Engine& engine) {
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.num_swapped, 0);
    EXPECT_EQ(stats.num_free_blocks, stats.num_blocks);
    EXPECT_EQ(stats.num_free_swap_blocks, stats.num_swap_blocks);
  }

  const TinyModelFolder folder_;
};

TEST_F(Swapping, two_hundred_requests_in_few_blocks_get_every_bit) {
  const std::vector<Request> requests = mixed_requests(200);
  const auto expected = unconstrained(requests);
  for (const bool caching : {true, false}) {
    EngineConfig config = crowded(24);
    config.enable_prefix_caching = caching;
    const auto engine = create_swapping_engine(config, 48);
    Gate gate(*engine);
    EXPECT_EQ(all_bits(generate(*engine, requests, &gate)), expected);
    EXPECT_GE(engine->stats().num_preemptions, 500);
    EXPECT_GE(engine->stats().num_swap_preemptions, 300);
    EXPECT_LT(engine->stats().num_swap_preemptions, engine->stats().num_preemptions);
    expect_all_free(*engine);
  }
}

TEST_F(Swapping, prompts_in_chunks_and_blocks_of_other_sizes_change_nothing) {
  const std::vector<Request> requests = mixed_requests(24);
  const auto expected = unconstrained(requests);
  for (const int32_t block_size : {8, 16}) {
    EngineConfig config = crowded(192 / block_size);
    config.block_size = block_size;
    config.max_num_batched_tokens = 11;
    const auto engine = create_swapping_engine(config, 24);
    Gate gate(*engine);
    EXPECT_EQ(all_bits(generate(*engine, requests, &gate)), expected);
    EXPECT_GT(engine->stats().num_swap_preemptions, 0);
    expect_all_free(*engine);
  }
}

TEST_F(Swapping, a_swap_space_that_is_full_costs_time_and_nothing_else) {
  const std::vector<Request> requests = mixed_requests(40);
  const auto expected = unconstrained(requests);
  for (const int32_t num_swap_blocks : {0, 1, 5, 9}) {
    const auto engine = create_swapping_engine(crowded(20), num_swap_blocks);
    Gate gate(*engine);
    EXPECT_EQ(all_bits(generate(*engine, requests, &gate)), expected) << num_swap_blocks;
    EXPECT_EQ(engine->stats().num_swap_preemptions > 0, num_swap_blocks > 0) << num_swap_blocks;
    expect_all_free(*engine);
  }
}

TEST_F(Swapping, prompt_logprobs_are_computed_once) {
  std::vector<Request> requests = mixed_requests(12);
  for (Request& asked : requests) asked.sampling.prompt_logprobs = 0;
  const auto values = [](const Output& output) {
    std::vector<float> flat;
    for (const PositionLogprobs& position : output.prompt_logprobs) {
      for (const TokenLogprob& candidate : position) flat.push_back(candidate.logprob);
    }
    return flat;
  };
  const auto expected = generate(*create_engine({.model = folder_.path(), .num_threads = 1}), requests);
  const auto engine = create_swapping_engine(crowded(20), 20);
  Gate gate(*engine);
  const auto outputs = generate(*engine, requests, &gate);
  EXPECT_GT(engine->stats().num_swap_preemptions, 0);
  for (size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(values(outputs[i]), values(expected[i])) << i;
}

/// Submit `first` and then `second`, which `first` will crowd out, and do something on the engine's thread as soon as
/// that has happened. Returns the last outputs of both.
std::pair<Output, Output> when_swapped(Engine& engine, Request first, const Request& second,
                                       const std::function<void(RequestId second)>& act) {
  const auto queue = OutputQueue::create();
  std::atomic<RequestId> second_id{0};
  std::atomic<bool> acted{false};
  Output joined;
  joined.sequences.resize(1);
  Gate gate(engine);
  first.output_kind = OutputKind::kDelta;
  const RequestId first_id = engine.submit(first, [&, collect = queue->callback()](Output&& output) {
    if (engine.stats().num_swapped > 0 && !acted.exchange(true)) act(second_id);
    collect(std::move(output));
  });
  second_id = engine.submit(second, queue->callback());
  gate.open();
  std::pair<Output, Output> last;
  for (int num_finished = 0; num_finished < 2;) {
    for (Output& output : queue->take()) {
      num_finished += output.finished ? 1 : 0;
      if (output.request_id != first_id) {
        last.second = std::move(output);
        continue;
      }
      SequenceOutput& whole = joined.sequences[0];
      for (SequenceOutput& news : output.sequences) {
        whole.token_ids.insert(whole.token_ids.end(), news.token_ids.begin(), news.token_ids.end());
        whole.logprobs.insert(whole.logprobs.end(), news.logprobs.begin(), news.logprobs.end());
      }
    }
  }
  EXPECT_TRUE(acted);
  last.first = std::move(joined);
  return last;
}

TEST_F(Swapping, a_swapped_request_can_be_cancelled) {
  const Request first = request(1, 1, 50), second = request(2, 3, 40);
  const auto expected = unconstrained({first});
  const auto engine = create_swapping_engine(crowded(12), 20);
  const auto outputs = when_swapped(*engine, first, second, [&](RequestId id) { EXPECT_TRUE(engine->cancel(id)); });
  EXPECT_EQ(bits(outputs.first), expected[0]);
  for (const SequenceOutput& sequence : outputs.second.sequences) {
    EXPECT_EQ(sequence.finish_reason, FinishReason::kAbort);
    EXPECT_GT(sequence.token_ids.size(), 0u);
  }
  expect_all_free(*engine);
}

TEST_F(Swapping, counts_say_what_the_host_holds) {
  const auto engine = create_swapping_engine(crowded(12), 20);
  EXPECT_EQ(engine->stats().num_swap_blocks, 20);
  when_swapped(*engine, request(1, 1, 50), request(2, 3, 40), [&](RequestId) {
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.num_swapped, 3);
    EXPECT_EQ(stats.num_waiting, 0);
    EXPECT_EQ(stats.num_running, 1);
    EXPECT_EQ(stats.num_swap_preemptions, 3);
    EXPECT_LT(stats.num_free_swap_blocks, 20);
  });
  expect_all_free(*engine);
}

TEST_F(Swapping, an_engine_can_be_closed_meanwhile) {
  auto engine = create_swapping_engine(crowded(12), 20);
  const auto queue = OutputQueue::create();
  Gate gate(*engine);
  for (const Request& asked : mixed_requests(12)) engine->submit(asked, queue->callback());
  gate.open();
  while (engine->stats().num_swap_preemptions == 0) std::this_thread::yield();
  engine->close();
  expect_all_free(*engine);
}

// What a step that swaps does next; ops are plain functions, so it cannot belong to an object.
std::atomic<int> num_failures{0};
std::atomic<int> num_failed{0};
std::atomic<bool> step_swaps{false};
EmbedFn real_embed = nullptr;
CopyBlocksFn real_copy_blocks = nullptr;

/// A backend on which steps fail that swap blocks, as if memory had run out for what they compute.
class FailingBackend final : public ForwardingBackend {
 public:
  explicit FailingBackend(std::unique_ptr<Backend> real) : ForwardingBackend(std::move(real)) {
    real_embed = ops_.embed;
    real_copy_blocks = ops_.copy_blocks;
    ops_.copy_blocks = [](const CopyBlocksArgs& args, Stream& stream) {
      step_swaps = args.to_layers.data() != args.layers.data();
      real_copy_blocks(args, stream);
    };
    ops_.embed = [](const EmbedArgs& args, Stream& stream) {
      if (step_swaps.exchange(false) && num_failures > 0) {
        --num_failures;
        ++num_failed;
        throw std::bad_alloc();
      }
      real_embed(args, stream);
    };
  }
};

TEST_F(Swapping, a_step_that_fails_has_moved_its_blocks_nevertheless) {
  const std::vector<Request> requests = mixed_requests(30);
  const auto expected = unconstrained(requests);
  OpenModel model = open_model(crowded(20));
  model.description.memory.num_swap_blocks = 30;
  if (std::getenv("QUIRE_TEST_AHEAD") != nullptr) {
    model.backends[0] = std::make_unique<LateBackend>(std::move(model.backends[0]));
  }
  model.backends[0] = std::make_unique<FailingBackend>(std::move(model.backends[0]));
  const auto engine = start_engine(std::move(model));
  num_failures = 2;
  num_failed = 0;
  Gate gate(*engine);
  const std::vector<Output> outputs = generate(*engine, requests, &gate);
  EXPECT_GT(num_failed, 0);
  int num_whole = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].error.empty()) continue;
    EXPECT_EQ(bits(outputs[i]), expected[i]) << i;
    ++num_whole;
  }
  EXPECT_GT(num_whole, 10);
  EXPECT_LT(num_whole, 30);
  expect_all_free(*engine);
}

}  // namespace
}  // namespace quire
