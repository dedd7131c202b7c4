// What goes wrong stays with the request it belongs to.
#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/log.h"
#include "engine/forwarding_backend.h"
#include "engine/generate.h"
#include "engine/loop.h"
#include "engine/open_model.h"
#include "engine/tiny_model.h"
#include "weights/loader.h"

namespace quire {
namespace {

constexpr int32_t kPoison = 50;

Request greedy(std::vector<int32_t> prompt, int32_t max_tokens) {
  Request request{.prompt_token_ids = std::move(prompt)};
  request.sampling.temperature = 0.0f;
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = max_tokens;
  request.sampling.logprobs = 1;
  // Greedy neighbours must not come upon the poison by themselves.
  request.sampling.logit_bias = {{kPoison, -1000.0f}};
  return request;
}

std::vector<int32_t> with_token(std::vector<int32_t> prompt, size_t position, int32_t token) {
  for (int32_t& id : prompt) id = id == kPoison ? 0 : id;
  prompt.at(position) = token;
  return prompt;
}

class Poisoned : public testing::Test {
 protected:
  static std::vector<Request> neighbours() {
    std::vector<Request> requests;
    for (uint32_t i = 0; i < 6; ++i) {
      requests.push_back(greedy(with_token(random_prompt(i, 20 + static_cast<int32_t>(i)), 0, 1), 20));
    }
    return requests;
  }

  const TinyModelFolder folder_{{.nan_token = kPoison}};
  const EngineConfig config_{.model = folder_.path(), .block_size = 8, .max_num_batched_tokens = 24, .num_threads = 1};
};

TEST_F(Poisoned, only_requests_that_read_the_token_fail_and_their_neighbours_keep_every_bit) {
  const auto engine = create_engine(config_);
  std::vector<std::vector<std::vector<std::pair<int32_t, float>>>> expected;
  for (const Output& output : generate(*engine, neighbours())) expected.push_back(bits(output));

  std::vector<Request> requests;
  for (const Request& neighbour : neighbours()) {
    requests.push_back(neighbour);
    const auto position = requests.size() * 3 % 40;
    requests.push_back(greedy(with_token(random_prompt(7, 40), position, kPoison), 20));
  }
  const std::vector<Output> outputs = generate(*engine, requests);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (i % 2 == 0) {
      EXPECT_EQ(bits(outputs[i]), expected[i / 2]) << "neighbour " << i / 2;
      EXPECT_EQ(outputs[i].error, "");
    } else {
      EXPECT_EQ(outputs[i].sequences.at(0).finish_reason, FinishReason::kError);
      EXPECT_TRUE(outputs[i].sequences[0].token_ids.empty());
      EXPECT_EQ(outputs[i].sequences[0].text, "");
      EXPECT_NE(outputs[i].error.find("not finite"), std::string::npos);
    }
  }
  EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
}

TEST_F(Poisoned, its_blocks_never_enter_the_prefix_cache) {
  const auto engine = create_engine(config_);
  // The poison stands in the third block of a prompt that takes several steps.
  const std::vector<int32_t> prompt = with_token(random_prompt(5, 60), 17, kPoison);
  for (int i = 0; i < 3; ++i) {
    const Output output = generate(*engine, greedy(prompt, 4));
    EXPECT_EQ(output.sequences[0].finish_reason, FinishReason::kError);
    EXPECT_EQ(output.num_cached_tokens, 0) << "not even the blocks of its own failed step";
  }
}

TEST_F(Poisoned, a_token_drawn_in_the_middle_ends_the_whole_request_and_keeps_what_was_said) {
  const auto engine = create_engine(config_);
  Request request = greedy(with_token(random_prompt(3, 12), 0, 1), 20);
  request.sampling.temperature = 1.0f;
  request.sampling.seed = 8;
  request.sampling.n = 3;
  request.sampling.logit_bias = {{kPoison, 2.0f}};  // likely enough to be drawn now and then
  const Output output = generate(*engine, request);
  EXPECT_NE(output.error, "");
  bool poison_was_last = false;
  for (const SequenceOutput& sequence : output.sequences) {
    EXPECT_EQ(sequence.finish_reason, FinishReason::kError);
    EXPECT_EQ(sequence.logprobs.size(), sequence.token_ids.size());
    if (!sequence.token_ids.empty()) poison_was_last |= sequence.token_ids.back() == kPoison;
  }
  EXPECT_TRUE(poison_was_last);
}

TEST_F(Poisoned, prompt_logprobs_of_it_fail_as_well) {
  const auto engine = create_engine(config_);
  Request request = greedy(with_token(random_prompt(5, 60), 40, kPoison), 4);
  request.sampling.prompt_logprobs = 1;
  const Output output = generate(*engine, request);
  EXPECT_EQ(output.sequences[0].finish_reason, FinishReason::kError);
  EXPECT_LE(output.prompt_logprobs.size(), 41u) << "nothing behind the poison is reported";
}

TEST(Callbacks, one_that_raises_cancels_its_request_and_no_other) {
  const TinyModelFolder folder;
  const auto engine = create_engine({.model = folder.path(), .num_threads = 1});
  const auto expected = bits(generate(*engine, greedy({1, 2, 3}, 30)));
  const auto queue = OutputQueue::create();
  std::atomic<int> calls{0};
  for (int i = 0; i < 5; ++i) {
    Request request = greedy({4, 5, 6}, 30);
    request.output_kind = OutputKind::kDelta;
    engine->submit(std::move(request), [&](Output&&) {
      if (++calls % 2 == 0) throw std::runtime_error("enough");
      throw 5;
    });
    engine->submit(greedy({1, 2, 3}, 30), queue->callback());
  }
  for (int finished = 0; finished < 5;) {
    for (const Output& output : queue->take()) {
      EXPECT_EQ(bits(output), expected);
      ++finished;
    }
  }
  EXPECT_EQ(calls, 5) << "no call after one that raised";
  EXPECT_EQ(engine->stats().num_free_blocks, engine->stats().num_blocks);
  EXPECT_EQ(engine->stats().num_finished_requests, 11);
}

// What the failing op raises next; ops are plain functions, so it cannot belong to an object.
std::atomic<int> failures_left{0};
std::atomic<bool> fails_with_bug{false};
EmbedFn real_embed = nullptr;

void failing_embed(const EmbedArgs& args, Stream& stream) {
  if (failures_left > 0) {
    --failures_left;
    if (fails_with_bug) throw Error(ErrorKind::kInternal, "[test] a bug");
    throw std::bad_alloc();
  }
  real_embed(args, stream);
}

/// A backend whose embed op raises when told to; all else is the real one's.
class FailingBackend final : public ForwardingBackend {
 public:
  explicit FailingBackend(std::unique_ptr<Backend> real) : ForwardingBackend(std::move(real)) {
    real_embed = ops_.embed;
    ops_.embed = failing_embed;
  }
};

class FailingSteps : public testing::Test {
 protected:
  FailingSteps() {
    OpenModel model = open_model({.model = folder_.path(), .num_threads = 1});
    const MemoryPlan& memory = model.description.memory;
    if (std::getenv("QUIRE_TEST_AHEAD") != nullptr) {
      model.backends[0] = std::make_unique<LateBackend>(std::move(model.backends[0]));
    }
    auto backend = std::make_unique<FailingBackend>(std::move(model.backends[0]));
    auto stream = backend->create_stream();
    ModelWeights weights = load_weights(model.folder, *model.checkpoint, std::nullopt, *backend, *stream);
    const RunnerConfig config{.max_model_len = memory.max_model_len, .num_blocks = memory.num_blocks};
    KvMemory swap_space = Runner::swap_space(model.folder.spec, *backend, config);
    auto runner = std::make_unique<Runner>(model.folder.spec, std::move(weights), std::move(swap_space),
                                           std::move(backend), std::move(stream), config);
    loop_ =
        std::make_unique<Loop>(std::make_unique<Ranks>(std::move(runner)),
                               SchedulerConfig{.num_blocks = memory.num_blocks, .max_model_len = memory.max_model_len},
                               RequestContext{.max_model_len = memory.max_model_len}, 1000);
    failures_left = 0;
    fails_with_bug = false;
    thread_ = std::thread([this] { loop_->run(); });
  }
  ~FailingSteps() override {
    loop_->queue().close();
    thread_.join();
  }

  Output run(int num_failures) {
    failures_left = num_failures;
    const auto queue = OutputQueue::create();
    loop_->queue().submit(greedy({1, 2, 3}, 4), queue->callback());
    return queue->take().at(0);
  }

  ErrorKind refusal() {
    try {
      loop_->queue().submit(greedy({1, 2, 3}, 4), [](Output&&) {});
    } catch (const Error& error) {
      message_ = error.what();
      return error.kind();
    }
    ADD_FAILURE() << "the request was accepted";
    return ErrorKind::kNotFound;
  }

  const TinyModelFolder folder_;
  std::unique_ptr<Loop> loop_;
  std::thread thread_;
  std::string message_;
};

TEST_F(FailingSteps, one_fails_its_requests_and_leaves_the_engine_usable) {
  const auto expected = bits(run(0));
  for (int i = 0; i < 5; ++i) {
    const Output failed = run(1);
    EXPECT_EQ(failed.sequences.at(0).finish_reason, FinishReason::kError);
    EXPECT_NE(failed.error, "");
    EXPECT_EQ(bits(run(0)), expected);
  }
  EXPECT_EQ(loop_->stats().num_free_blocks, loop_->stats().num_blocks);
}

TEST_F(FailingSteps, three_in_a_row_fail_the_engine) {
  EXPECT_EQ(run(1).sequences[0].finish_reason, FinishReason::kError);
  EXPECT_EQ(run(1).sequences[0].finish_reason, FinishReason::kError);
  EXPECT_EQ(loop_->queue().failure(), std::nullopt);
  EXPECT_EQ(run(1).sequences[0].finish_reason, FinishReason::kError);
  EXPECT_EQ(refusal(), ErrorKind::kInternal);
  EXPECT_EQ(loop_->queue().failure(), message_);
}

TEST_F(FailingSteps, a_bug_fails_the_engine_at_once_and_every_later_call_says_so) {
  fails_with_bug = true;
  const Output output = run(1);
  EXPECT_EQ(output.sequences[0].finish_reason, FinishReason::kError);
  EXPECT_EQ(output.error, "[test] a bug");
  EXPECT_EQ(refusal(), ErrorKind::kInternal);
  EXPECT_EQ(message_, "[test] a bug");
  EXPECT_FALSE(loop_->queue().cancel(output.request_id));
  EXPECT_EQ(loop_->stats().num_running, 0);
}

}  // namespace
}  // namespace quire
