#include "engine/queue.h"

#include <gtest/gtest.h>

#include <thread>

#include "quire/error.h"

namespace quire {
namespace {

OutputCallback no_callback() {
  return [](Output&&) {};
}

ErrorKind refusal(CommandQueue& queue) {
  try {
    queue.submit({}, no_callback());
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "the request was accepted";
  return ErrorKind::kDevice;
}

TEST(CommandQueue, numbers_requests_in_order_and_hands_them_over_once) {
  CommandQueue queue(10);
  EXPECT_EQ(queue.submit({}, no_callback()), 0u);
  EXPECT_EQ(queue.submit({}, no_callback()), 1u);
  Commands commands;
  queue.take(commands, true);
  ASSERT_EQ(commands.submissions.size(), 2u);
  EXPECT_EQ(commands.submissions[1].id, 1u);
  EXPECT_GT(commands.submissions[0].arrival_time, 0.0);
  queue.take(commands, false);
  EXPECT_TRUE(commands.submissions.empty());
}

TEST(CommandQueue, refuses_more_requests_than_its_capacity_until_one_ends) {
  CommandQueue queue(2);
  queue.submit({}, no_callback());
  queue.submit({}, no_callback());
  Commands commands;
  queue.take(commands, true);
  EXPECT_EQ(refusal(queue), ErrorKind::kInvalidArgument) << "running requests count as well";
  queue.ended(0);
  EXPECT_EQ(queue.submit({}, no_callback()), 2u) << "a refused request takes no number";
}

TEST(CommandQueue, cancels_only_what_is_alive) {
  CommandQueue queue(2);
  EXPECT_FALSE(queue.cancel(0));
  const RequestId id = queue.submit({}, no_callback());
  EXPECT_TRUE(queue.cancel(id));
  queue.ended(id);
  EXPECT_FALSE(queue.cancel(id));
}

TEST(CommandQueue, refuses_requests_after_close_and_after_a_failure) {
  CommandQueue closed(2);
  closed.close();
  EXPECT_EQ(refusal(closed), ErrorKind::kInvalidArgument);
  CommandQueue failed(2);
  failed.fail("broken");
  EXPECT_EQ(refusal(failed), ErrorKind::kInternal);
}

TEST(CommandQueue, wakes_a_waiting_thread_for_each_kind_of_command) {
  CommandQueue queue(2);
  Commands commands;
  RequestId id = 0;
  std::thread submitter([&] { id = queue.submit({}, no_callback()); });
  queue.take(commands, true);
  submitter.join();
  EXPECT_EQ(commands.submissions.size(), 1u);

  std::thread canceller([&] { queue.cancel(id); });
  queue.take(commands, true);
  canceller.join();
  EXPECT_EQ(commands.cancellations.size(), 1u);

  std::thread closer([&] { queue.close(); });
  queue.take(commands, true);
  closer.join();
  EXPECT_TRUE(commands.closing);
}

}  // namespace
}  // namespace quire
