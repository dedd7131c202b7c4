// Many threads around one engine: submit, cancel, close, and what is left afterwards. Run under TSan.
#include <gtest/gtest.h>

#include <atomic>
#include <ctime>
#include <fstream>
#include <future>
#include <set>
#include <thread>
#include <vector>

#include "engine/generate.h"
#include "engine/tiny_model.h"
#include "quire/engine.h"

namespace quire {
namespace {

class EngineConcurrency : public testing::Test {
 protected:
  static void SetUpTestSuite() { folder_ = std::make_unique<TinyModelFolder>(); }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::unique_ptr<Engine> create() { return create_engine({.model = folder_->path(), .num_threads = 1}); }

  static Request request(uint32_t seed, int32_t max_tokens) {
    Request request{.prompt_token_ids = random_prompt(seed, 5 + static_cast<int32_t>(seed % 20))};
    request.sampling.temperature = 0.0f;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = max_tokens;
    request.sampling.logprobs = 0;
    return request;
  }

  static inline std::unique_ptr<TinyModelFolder> folder_;
};

TEST_F(EngineConcurrency, many_threads_get_what_one_would_get) {
  const auto engine = create();
  std::vector<std::vector<int32_t>> expected;
  for (uint32_t i = 0; i < 8; ++i) expected.push_back(generate(*engine, request(i, 10)).sequences[0].token_ids);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (uint32_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        const Output output = generate(*engine, request(i, 10));
        if (output.sequences[0].token_ids != expected[i]) ++wrong;
        engine->stats();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(engine->stats().num_finished_requests, 48);
}

TEST_F(EngineConcurrency, requests_cancelled_at_random_times_end_and_give_their_blocks_back) {
  const auto engine = create();
  const auto queue = OutputQueue::create();
  std::vector<RequestId> ids;
  for (uint32_t i = 0; i < 60; ++i) {
    Request asked = request(i, 100);
    asked.sampling.n = i % 3 == 0 ? 3 : 1;
    asked.output_kind = i % 2 == 0 ? OutputKind::kDelta : OutputKind::kFinalOnly;
    ids.push_back(engine->submit(std::move(asked), queue->callback()));
    if (i % 10 == 0) engine->cancel(ids.back());
  }
  std::thread canceller([&] {
    std::mt19937 random(7);
    for (int i = 0; i < 200; ++i) {
      engine->cancel(ids[random() % ids.size()]);
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 100));
    }
  });
  canceller.join();
  int aborted = 0;
  for (int finished = 0; finished < 60;) {
    for (const Output& output : queue->take()) {
      if (!output.finished) continue;
      ++finished;
      for (const SequenceOutput& sequence : output.sequences) {
        if (sequence.finish_reason == FinishReason::kAbort) ++aborted;
      }
      EXPECT_FALSE(engine->cancel(output.request_id)) << "it has ended";
    }
  }
  EXPECT_GT(aborted, 0);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.num_running + stats.num_waiting, 0);
  EXPECT_EQ(stats.num_free_blocks, stats.num_blocks);
  EXPECT_EQ(stats.num_finished_requests, 60);
}

TEST_F(EngineConcurrency, cancelling_one_request_leaves_the_others_untouched) {
  const auto engine = create();
  const auto expected = bits(generate(*engine, request(1, 40)));
  const auto queue = OutputQueue::create();
  for (uint32_t i = 0; i < 20; ++i) {
    const RequestId other = engine->submit(request(100 + i, 100), [](Output&&) {});
    engine->submit(request(1, 40), queue->callback());
    engine->cancel(other);
  }
  for (int finished = 0; finished < 20;) {
    for (const Output& output : queue->take()) {
      EXPECT_EQ(bits(output), expected);
      ++finished;
    }
  }
}

TEST_F(EngineConcurrency, callbacks_may_submit_and_cancel) {
  const auto engine = create();
  const auto queue = OutputQueue::create();
  std::promise<bool> cancelled_itself;
  engine->submit(request(1, 3), [&](Output&& output) {
    cancelled_itself.set_value(engine->cancel(output.request_id));
    engine->submit(request(2, 3), queue->callback());
  });
  EXPECT_FALSE(cancelled_itself.get_future().get());
  EXPECT_EQ(queue->take().at(0).sequences[0].token_ids.size(), 3u);
}

TEST_F(EngineConcurrency, closing_ends_what_runs_and_refuses_what_comes) {
  // More tokens than can be made while the others are submitted.
  constexpr int32_t kMany = 20'000;
  const TinyModelFolder folder({.max_positions = kMany + 100});
  const auto engine = create_engine({.model = folder.path(), .num_threads = 1});
  const auto queue = OutputQueue::create();
  for (uint32_t i = 0; i < 10; ++i) engine->submit(request(i, kMany), queue->callback());
  engine->close();
  engine->close();
  // The first of them may have got some tokens before.
  std::set<RequestId> ended;
  for (const Output& output : queue->take(0.0)) {
    if (!output.finished) continue;
    EXPECT_EQ(output.sequences.at(0).finish_reason, FinishReason::kAbort);
    EXPECT_TRUE(ended.insert(output.request_id).second);
  }
  EXPECT_EQ(ended.size(), 10u) << "every request has its last output when close() returns";
  EXPECT_FALSE(engine->cancel(0));
  EXPECT_EQ(engine->stats().num_running, 0);
  EXPECT_EQ(engine->stats().num_finished_requests, 10);
  EXPECT_EQ(engine->description().model.vocab_size, 96);
  try {
    engine->submit(request(1, 1), queue->callback());
    ADD_FAILURE() << "a closed engine took a request";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  }
}

TEST_F(EngineConcurrency, several_threads_may_close_while_others_submit) {
  const auto engine = create();
  std::atomic<int> accepted{0}, ended{0};
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        try {
          engine->submit(request(i, 20), [&](Output&& output) { ended += output.finished ? 1 : 0; });
          ++accepted;
        } catch (const Error&) {
          return;
        }
      }
    });
  }
  for (int i = 0; i < 2; ++i) threads.emplace_back([&] { engine->close(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(accepted, ended);
}

TEST_F(EngineConcurrency, close_from_a_callback_is_refused_and_destruction_from_one_is_not) {
  std::shared_ptr<Engine> engine = create();
  std::promise<ErrorKind> refused;
  engine->submit(request(1, 1), [&](Output&&) {
    try {
      engine->close();
    } catch (const Error& error) {
      refused.set_value(error.kind());
    }
  });
  EXPECT_EQ(refused.get_future().get(), ErrorKind::kInvalidArgument);

  std::promise<void> mine_is_gone, destroyed;
  Engine* plain = engine.get();
  plain->submit(request(1, 1), [&, held = engine](Output&&) mutable {
    mine_is_gone.get_future().wait();
    held.reset();
    destroyed.set_value();
  });
  engine.reset();
  mine_is_gone.set_value();
  destroyed.get_future().wait();
}

TEST_F(EngineConcurrency, two_engines_work_at_once) {
  const auto one = create();
  const TinyModelFolder other_folder({.layers = 3, .seed = 9});
  const auto two = create_engine({.model = other_folder.path(), .num_threads = 2});
  const auto expected_one = bits(generate(*one, request(1, 30)));
  const auto expected_two = bits(generate(*two, request(1, 30)));
  EXPECT_NE(expected_one, expected_two);
  std::thread beside([&] {
    for (int i = 0; i < 5; ++i) EXPECT_EQ(bits(generate(*one, request(1, 30))), expected_one);
  });
  for (int i = 0; i < 5; ++i) EXPECT_EQ(bits(generate(*two, request(1, 30))), expected_two);
  beside.join();
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

int num_threads() {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    if (word == "Threads:") {
      int count = 0;
      file >> count;
      return count;
    }
  }
  return -1;
}

TEST_F(EngineConcurrency, creating_and_closing_twenty_engines_leaves_nothing_behind) {
  const TinyModelFolder folder({.width = 256, .layers = 4, .heads = 4, .ffn = 768});
  const auto use = [&] {
    const auto engine = create_engine({.model = folder.path(), .num_threads = 2});
    generate(*engine, request(1, 4));
  };
  for (int i = 0; i < 3; ++i) use();
  const int64_t before = resident_bytes();
  const int threads_before = num_threads();
  for (int i = 0; i < 20; ++i) use();
  EXPECT_EQ(num_threads(), threads_before);
  // One engine takes more than 10 MB; sanitizers keep freed memory for a while and count for themselves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(resident_bytes() - before, 8 << 20);
#else
  static_cast<void>(before);
#endif
}

TEST_F(EngineConcurrency, an_idle_engine_costs_no_processor) {
  const auto engine = create_engine({.model = folder_->path(), .num_threads = 2});
  generate(*engine, request(1, 4));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC, 0.05);
}

TEST_F(EngineConcurrency, a_full_queue_refuses_until_a_request_ends) {
  const auto engine = create_engine({.model = folder_->path(), .num_threads = 1, .max_queued_requests = 2});
  const auto queue = OutputQueue::create();
  Gate gate(*engine);  // its own request has ended when its callback is called
  EXPECT_NO_THROW(engine->submit(request(1, 1), queue->callback()));
  EXPECT_NO_THROW(engine->submit(request(2, 1), queue->callback()));
  try {
    engine->submit(request(3, 1), queue->callback());
    ADD_FAILURE() << "a third request was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("max_queued_requests=2"), std::string::npos);
  }
  gate.open();
  for (int finished = 0; finished < 2;) finished += static_cast<int>(queue->take().size());
  EXPECT_NO_THROW(generate(*engine, request(3, 1)));
}

}  // namespace
}  // namespace quire
