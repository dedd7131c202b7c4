#include "quire/output_queue.h"

#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <vector>

namespace quire {
namespace {

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

}  // namespace
}  // namespace quire
