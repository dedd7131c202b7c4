#include "quire/output_queue.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <iterator>
#include <limits>
#include <thread>
#include <vector>

#include "engine/generate.h"
#include "engine/joint_wake.h"
#include "engine/tiny_model.h"

namespace quire {
namespace {

bool readable(int descriptor) {
  pollfd watched{.fd = descriptor, .events = POLLIN, .revents = 0};
  return ::poll(&watched, 1, 0) == 1;
}

TEST(OutputQueue, hands_out_everything_oldest_first) {
  const auto queue = OutputQueue::create();
  const OutputCallback callback = queue->callback();
  for (RequestId id = 0; id < 3; ++id) callback({.request_id = id});
  const std::vector<Output> outputs = queue->take();
  ASSERT_EQ(outputs.size(), 3u);
  for (RequestId id = 0; id < 3; ++id) EXPECT_EQ(outputs[id].request_id, id);
}

TEST(OutputQueue, returns_nothing_after_the_timeout) {
  EXPECT_TRUE(OutputQueue::create()->take(0.0).empty());
  EXPECT_TRUE(OutputQueue::create()->take(0.01).empty());
}

TEST(OutputQueue, takes_timeouts_beyond_what_a_clock_counts) {
  const auto queue = OutputQueue::create();
  queue->callback()({.request_id = 1});
  EXPECT_EQ(queue->take(std::numeric_limits<double>::infinity()).size(), 1u);
}

TEST(OutputQueue, lives_as_long_as_its_callbacks) {
  std::weak_ptr<OutputQueue> watched;
  OutputCallback callback;
  {
    const auto queue = OutputQueue::create();
    watched = queue;
    callback = queue->callback();
  }
  callback({.request_id = 1});
  EXPECT_FALSE(watched.expired());
  callback = {};
  EXPECT_TRUE(watched.expired());
}

TEST(OutputQueue, wakes_a_waiting_thread_and_loses_nothing_among_many_writers) {
  const auto queue = OutputQueue::create();
  constexpr int kWriters = 4, kEach = 500;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([callback = queue->callback(), writer] {
      for (int i = 0; i < kEach; ++i) callback({.request_id = static_cast<RequestId>(writer * kEach + i)});
    });
  }
  std::vector<int> seen(kWriters * kEach);
  std::vector<RequestId> last(kWriters, 0);
  for (size_t count = 0; count < seen.size();) {
    for (const Output& output : queue->take()) {
      ++seen[output.request_id];
      ++count;
      RequestId& before = last[output.request_id / kEach];
      EXPECT_GE(output.request_id, before);
      before = output.request_id;
    }
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<long>(seen.size()));
}

TEST(OutputQueue, has_a_descriptor_that_is_readable_while_there_is_something) {
  const auto queue = OutputQueue::create();
  const int descriptor = queue->fileno();
  EXPECT_EQ(queue->fileno(), descriptor);
  EXPECT_FALSE(readable(descriptor));
  for (int round = 0; round < 3; ++round) {
    queue->callback()({.request_id = 1});
    queue->callback()({.request_id = 2});
    EXPECT_TRUE(readable(descriptor));
    EXPECT_EQ(queue->take(0.0).size(), 2u);
    EXPECT_FALSE(readable(descriptor));
  }
  EXPECT_TRUE(queue->take(0.0).empty());
}

TEST(OutputQueue, has_a_descriptor_that_knows_what_came_before_it) {
  const auto queue = OutputQueue::create();
  queue->callback()({.request_id = 1});
  EXPECT_TRUE(readable(queue->fileno()));
}

TEST(OutputQueue, wakes_its_reader_once_for_a_whole_step) {
  const auto first = OutputQueue::create(), second = OutputQueue::create(), untouched = OutputQueue::create();
  const int descriptor = first->fileno();
  {
    const JointWake wake;
    for (RequestId id = 0; id < 3; ++id) {
      first->callback()({.request_id = id});
      second->callback()({.request_id = id});
      EXPECT_FALSE(readable(descriptor)) << "after output " << id;
    }
    EXPECT_EQ(second->take(0.0).size(), 3u) << "who looks by itself need not wait";
  }
  EXPECT_EQ(JointWake::current(), nullptr);
  EXPECT_TRUE(readable(descriptor));
  EXPECT_FALSE(readable(second->fileno()));
  EXPECT_FALSE(readable(untouched->fileno()));
  EXPECT_EQ(first->take(0.0).size(), 3u);
}

TEST(OutputQueue, wakes_its_reader_at_most_once_per_step_of_an_engine) {
  const TinyModelFolder folder;
  EngineConfig config;
  config.model = folder.path();
  config.kv_cache_memory_bytes = int64_t{1} << 20;
  const auto engine = create_engine(config);
  const auto queue = OutputQueue::create();
  Request request{.prompt_token_ids = {1, 2, 3}, .output_kind = OutputKind::kDelta};
  request.sampling.ignore_eos = true;
  constexpr int kRequests = 8;
  Gate gate(*engine);
  for (int i = 0; i < kRequests; ++i) engine->submit(request, queue->callback());
  gate.open();
  int64_t num_wakes = 0, num_tokens = 0;
  for (int num_finished = 0; num_finished < kRequests; ++num_wakes) {
    pollfd watched{.fd = queue->fileno(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&watched, 1, 60'000), 1);
    for (const Output& output : queue->take(0.0)) {
      num_finished += output.finished ? 1 : 0;
      for (const SequenceOutput& sequence : output.sequences) num_tokens += std::ssize(sequence.token_ids);
    }
  }
  EXPECT_EQ(num_tokens, kRequests * 16);
  EXPECT_LE(num_wakes, engine->stats().num_steps);
}

}  // namespace
}  // namespace quire
