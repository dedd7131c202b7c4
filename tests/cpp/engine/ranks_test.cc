// A model that several ranks compute together gives what one gives, and one that fails stops all.
#include "engine/ranks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/refusal.h"
#include "engine/forwarding_backend.h"
#include "engine/generate.h"
#include "engine/tiny_model.h"

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<Request> some_requests() {
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 8; ++i) {
    Request request{.prompt_token_ids = random_prompt(i, 3 + static_cast<int32_t>(i) * 7)};
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.seed = i;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = 20;
    request.sampling.logprobs = 1;
    if (i == 3) request.sampling.n = 3;
    if (i == 4) request.sampling.prompt_logprobs = 2;
    requests.push_back(std::move(request));
  }
  return requests;
}

void expect_near(const std::vector<Output>& outputs, const std::vector<Output>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(outputs[i].error, "");
    const auto got = bits(outputs[i]), wanted = bits(expected[i]);
    ASSERT_EQ(got.size(), wanted.size());
    for (size_t k = 0; k < wanted.size(); ++k) {
      ASSERT_EQ(got[k].size(), wanted[k].size());
      for (size_t t = 0; t < wanted[k].size(); ++t) {
        EXPECT_EQ(got[k][t].first, wanted[k][t].first) << "request " << i << ", token " << t;
        EXPECT_NEAR(got[k][t].second, wanted[k][t].second, 1e-4);
      }
    }
    ASSERT_EQ(outputs[i].prompt_logprobs.size(), expected[i].prompt_logprobs.size());
    for (size_t t = 1; t < expected[i].prompt_logprobs.size(); ++t) {
      EXPECT_NEAR(outputs[i].prompt_logprobs[t][0].logprob, expected[i].prompt_logprobs[t][0].logprob, 1e-4);
    }
  }
}

TEST(TensorParallel, gives_what_one_rank_gives) {
  // Four heads, two of keys and values: with four ranks two hold the same one.
  const TinyModelFolder folder;
  const auto expected = generate(*create_engine({.model = folder.path(), .num_threads = 1}), some_requests());
  for (const int32_t num_ranks : {2, 4}) {
    const auto engine = create_engine({.model = folder.path(), .tensor_parallel_size = num_ranks, .num_threads = 1});
    expect_near(generate(*engine, some_requests()), expected);
    EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
  }
}

TEST(TensorParallel, a_vocabulary_need_not_go_evenly) {
  const TinyModelFolder folder({.vocab = 97});
  const auto expected = generate(*create_engine({.model = folder.path(), .num_threads = 1}), some_requests());
  for (const int32_t num_ranks : {2, 4}) {
    const EngineConfig config{.model = folder.path(), .tensor_parallel_size = num_ranks, .num_threads = 1};
    expect_near(generate(*create_engine(config), some_requests()), expected);
  }
}

TEST(TensorParallel, swaps_out_and_in_on_every_rank) {
  const TinyModelFolder folder;
  EngineConfig config{.model = folder.path(), .block_size = 8, .num_blocks_override = 24, .num_threads = 1};
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 8; ++i) {
    Request request = some_requests()[i];
    request.sampling.n = 2;
    requests.push_back(std::move(request));
  }
  const auto expected = generate(*Engine::create({.model = folder.path(), .num_threads = 1}), requests);
  config.tensor_parallel_size = 2;
  const auto engine = create_swapping_engine(config, 40);
  Gate gate(*engine);
  expect_near(generate(*engine, requests, &gate), expected);
  EXPECT_GT(engine->stats().num_swap_preemptions, 0);
}

TEST(TensorParallel, dummy_weights_are_those_of_one_rank) {
  const TinyModelFolder folder;
  EngineConfig config{.model = folder.path(), .load_format = "dummy", .num_threads = 1};
  const auto expected = generate(*create_engine(config), some_requests());
  config.tensor_parallel_size = 2;
  expect_near(generate(*create_engine(config), some_requests()), expected);
}

TEST(TensorParallel, ranks_share_the_threads_and_the_memory_of_the_host) {
  const TinyModelFolder folder;
  EngineConfig config{.model = folder.path(), .kv_cache_memory_bytes = 1 << 20, .num_threads = 5};
  const ModelDescription one = Engine::describe(config);
  config.tensor_parallel_size = 2;
  const ModelDescription two = Engine::describe(config);
  EXPECT_EQ(two.num_threads, 4);
  EXPECT_EQ(two.memory.num_ranks, 2);
  EXPECT_EQ(two.backend, one.backend + ", 2 ranks");
  EXPECT_EQ(two.model.num_parameters, one.model.num_parameters) << "of the whole model";
  EXPECT_LT(two.memory.weight_bytes, one.memory.weight_bytes);
  EXPECT_EQ(two.memory.kv_bytes_per_token * 2, one.memory.kv_bytes_per_token);
  EXPECT_EQ(two.memory.num_blocks / 2, one.memory.num_blocks) << "a rank's cache is as large, its blocks are smaller";
  EXPECT_LT(two.memory.available_bytes, one.memory.available_bytes / 2 + (1 << 30));
  config.tensor_parallel_size = 4;
  config.num_threads = 1;
  EXPECT_EQ(Engine::describe(config).num_threads, 4) << "at least one each";
}

TEST(TensorParallel, a_model_that_cannot_be_dealt_out_is_refused_before_its_weights_are_read) {
  const TinyModelFolder folder;
  const Refusal refusal =
      refusal_of([&] { Engine::create({.model = folder.path(), .tensor_parallel_size = 3, .num_threads = 1}); });
  EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
  EXPECT_TRUE(refusal.names("num_attention_heads=4, tensor_parallel_size=3: set tensor_parallel_size to 1, 2 or 4"))
      << refusal.message;
}

/// A backend of which a test changes something.
class AlteredBackend final : public ForwardingBackend {
 public:
  AlteredBackend(std::unique_ptr<Backend> real, const std::function<void(Ops&)>& change)
      : ForwardingBackend(std::move(real)) {
    change(ops_);
  }
};

// What the altered ops do next; ops are plain functions, so it cannot belong to an object.
std::atomic<int> calls_until_failure{0};
std::atomic<int> failure_kind{0};
AttentionFn real_attention = nullptr;
SampleFn real_sample = nullptr;

void failing_attention(const AttentionArgs& args, Stream& stream) {
  if (--calls_until_failure == 0) {
    if (failure_kind == 1) throw std::bad_alloc();
    if (failure_kind == 2) throw 5;
    throw Error(ErrorKind::kInternal, "[test] a bug");
  }
  real_attention(args, stream);
}

void fail_at_attention(Ops& ops) {
  real_attention = ops.attention;
  ops.attention = failing_attention;
}

/// Whether ops run when they are called, or when their results are waited for.
class RankFailure : public testing::TestWithParam<bool> {
 protected:
  /// An engine of four ranks, one of which has other ops than it should.
  std::unique_ptr<Engine> create(size_t rank, const std::function<void(Ops&)>& change) const {
    OpenModel model = open_model({.model = folder_.path(), .tensor_parallel_size = 4, .num_threads = 1});
    model.backends[rank] = std::make_unique<AlteredBackend>(std::move(model.backends[rank]), change);
    for (auto& backend : model.backends) {
      if (GetParam()) backend = std::make_unique<LateBackend>(std::move(backend));
    }
    return start_engine(std::move(model));
  }

  /// The error that several requests end with, in an engine that fails for good. What is submitted after it has failed
  /// is refused with that.
  static std::string failure_of(Engine& engine) {
    const auto begin = Clock::now();
    const auto queue = OutputQueue::create();
    size_t num_submitted = 0;
    std::string refused;
    for (const Request& request : some_requests()) {
      try {
        engine.submit(request, queue->callback());
        ++num_submitted;
      } catch (const Error& error) {
        refused = error.what();
      }
    }
    EXPECT_GT(num_submitted, 0u);
    std::vector<Output> ends;
    while (ends.size() < num_submitted) {
      for (Output& output : queue->take()) {
        if (output.finished) ends.push_back(std::move(output));
      }
    }
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(60)) << "nobody may wait until a rank is given up";
    const std::string failure = engine.failure().value_or("");
    EXPECT_TRUE(refused.empty() || refused == failure) << refused;
    for (const Output& output : ends) {
      EXPECT_EQ(output.error, failure);
      EXPECT_EQ(output.sequences.at(0).finish_reason, FinishReason::kError);
    }
    const Refusal refusal = refusal_of([&] { engine.submit(some_requests()[0], [](Output&&) {}); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInternal);
    EXPECT_EQ(refusal.message, failure);
    return failure;
  }

  const TinyModelFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(AtOnceOrBehind, RankFailure, testing::Bool());

TEST_P(RankFailure, one_that_raises_in_the_middle_of_a_step_ends_the_engine_with_its_line) {
  for (const size_t rank : {0, 2}) {
    // In the first layer of the first step, in a second layer, and when there are two steps on their way.
    for (const int calls : {1, 2, 9}) {
      calls_until_failure = calls;
      failure_kind = 0;
      const auto engine = create(rank, fail_at_attention);
      EXPECT_EQ(failure_of(*engine), "[ranks] rank " + std::to_string(rank) + " of 4 has failed: [test] a bug");
    }
  }
}

TEST_P(RankFailure, what_one_rank_would_survive_ends_several) {
  for (const int kind : {1, 2}) {
    calls_until_failure = 3;
    failure_kind = kind;
    const auto engine = create(3, fail_at_attention);
    const std::string failure = failure_of(*engine);
    EXPECT_TRUE(failure.starts_with("[ranks] rank 3 of 4 has failed: ")) << failure;
  }
}

TEST_P(RankFailure, ranks_that_draw_different_tokens_end_the_engine) {
  const auto engine = create(1, [](Ops& ops) {
    real_sample = ops.sample;
    ops.sample = [](const SampleArgs& args, Stream& stream) {
      real_sample(args, stream);
      args.tokens[0].token ^= 1;
    };
  });
  const std::string failure = failure_of(*engine);
  EXPECT_NE(failure.find("rank 1 has chosen other tokens than rank 0"), std::string::npos) << failure;
}

TEST_P(RankFailure, an_engine_may_be_closed_with_steps_on_their_way) {
  for (int i = 0; i < 5; ++i) {
    const auto engine = create(0, [](Ops&) {});
    std::atomic<int> num_outputs{0};
    for (Request request : some_requests()) {
      request.output_kind = OutputKind::kDelta;
      request.sampling.max_tokens = 80;
      engine->submit(std::move(request), [&](Output&&) { ++num_outputs; });
    }
    while (num_outputs < 3 * i) std::this_thread::yield();
    engine->close();
  }
}

/// Refuses to pack anything.
class UnpackingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  PackedLinear pack_linear(const LinearSource&, Stream&) override {
    throw Error(ErrorKind::kOutOfMemory, "[test] no memory");
  }
};

TEST(TensorParallel, a_rank_that_cannot_load_stops_the_others_and_says_why) {
  const TinyModelFolder folder;
  for (const size_t rank : {0, 1}) {
    OpenModel model = open_model({.model = folder.path(), .tensor_parallel_size = 2, .num_threads = 1});
    model.backends[rank] = std::make_unique<UnpackingBackend>(std::move(model.backends[rank]));
    const Refusal refusal = refusal_of([&] { start_engine(std::move(model)); });
    EXPECT_EQ(refusal.kind, ErrorKind::kOutOfMemory);
    EXPECT_EQ(refusal.message, "[test] no memory");
  }
}

/// Counts the ranks that are in a step, and whether memory is replaced meanwhile.
class WatchingBackend final : public ForwardingBackend {
 public:
  /// `delay`: how long memory takes once all is loaded, so that a rank that does not wait for it begins its step.
  WatchingBackend(std::unique_ptr<Backend> real, std::chrono::milliseconds delay)
      : ForwardingBackend(std::move(real)), delay_(delay) {}
  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override {
    if (!is_in_step_) ++num_in_steps;
    is_in_step_ = true;
    ForwardingBackend::enqueue_to_device(destination, source, bytes, stream);
  }
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override {
    if (is_in_step_) --num_in_steps;
    is_in_step_ = false;
    ForwardingBackend::enqueue_to_host(destination, source, bytes, stream);
  }
  Buffer allocate(size_t bytes, MemoryKind kind) override {
    if (is_loaded) {
      std::this_thread::sleep_for(delay_);
      ++(num_in_steps > 0 ? num_in_time_of_steps : num_beside_steps);
    }
    return ForwardingBackend::allocate(bytes, kind);
  }

  static inline std::atomic<bool> is_loaded{false};
  static inline std::atomic<int> num_in_steps{0}, num_in_time_of_steps{0}, num_beside_steps{0};

 private:
  const std::chrono::milliseconds delay_;
  bool is_in_step_ = false;
};

TEST(TensorParallel, no_rank_replaces_memory_while_another_is_in_a_step) {
  const TinyModelFolder folder({.vocab = 1200});
  OpenModel model = open_model({.model = folder.path(), .tensor_parallel_size = 2, .num_threads = 1});
  for (const size_t rank : {0, 1}) {
    auto& backend = model.backends[rank];
    backend = std::make_unique<WatchingBackend>(std::move(backend), std::chrono::milliseconds(50 * rank));
  }
  const auto engine = start_engine(std::move(model));
  WatchingBackend::is_loaded = true;
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 24; ++i) {
    Request request{.prompt_token_ids = random_prompt(i, 9)};
    for (int32_t token = 0; token < 1024; ++token) request.sampling.logit_bias.emplace_back(token, 0.5f);
    request.sampling.max_tokens = 4;
    requests.push_back(std::move(request));
  }
  Gate gate(*engine);
  for (const Output& output : generate(*engine, requests, &gate)) EXPECT_EQ(output.error, "");
  WatchingBackend::is_loaded = false;
  EXPECT_GE(WatchingBackend::num_beside_steps, 2) << "each rank's, at least once";
  EXPECT_EQ(WatchingBackend::num_in_time_of_steps, 0);
}

TEST(TensorParallel, progress_may_stop_the_loading_of_all_ranks) {
  const TinyModelFolder folder;
  const EngineConfig config{.model = folder.path(), .tensor_parallel_size = 2, .num_threads = 1};
  EXPECT_THROW(Engine::create(config,
                              [](double share) {
                                if (share > 0.3) throw 7;
                              }),
               int);
}

}  // namespace
}  // namespace quire
