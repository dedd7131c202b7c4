#include "core/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/host.h"
#include "quire/error.h"

namespace quire {
namespace {

TEST(ThreadPoolTest, run_calls_every_worker_once) {
  for (const int size : {1, 2, 3, 8}) {
    ThreadPool pool(size);
    ASSERT_EQ(pool.size(), size);
    std::vector<int> calls(static_cast<size_t>(size), 0);  // not atomic: run() itself must order these
    for (int round = 1; round <= 200; ++round) {
      pool.run([&](int worker) { ++calls[static_cast<size_t>(worker)]; });
      for (const int count : calls) ASSERT_EQ(count, round);
    }
  }
}

TEST(ThreadPoolTest, the_caller_is_worker_zero) {
  ThreadPool pool(3);
  std::vector<std::thread::id> ids(3);
  pool.run([&](int worker) { ids[static_cast<size_t>(worker)] = std::this_thread::get_id(); });
  EXPECT_EQ(ids[0], std::this_thread::get_id());
  EXPECT_NE(ids[1], ids[0]);
  EXPECT_NE(ids[2], ids[1]);
}

TEST(ThreadPoolTest, workers_that_sleep_wake_up) {
  ThreadPool pool(2);
  int sum = 0;
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than any spinning
    std::atomic<int> calls{0};
    pool.run([&](int) { calls.fetch_add(1); });
    sum += calls.load();
  }
  EXPECT_EQ(sum, 40);
}

TEST(ThreadPoolTest, the_caller_waits_for_a_worker_that_takes_long) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    bool done = false;
    pool.run([&](int worker) {
      if (worker == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      done = true;
    });
    ASSERT_TRUE(done);
  }
}

TEST(ThreadPoolTest, run_sharing_does_all_the_work_whoever_comes) {
  for (const int size : {1, 2, 5}) {
    ThreadPool pool(size);
    for (int round = 0; round < 2000; ++round) {
      constexpr int kItems = 50;
      std::vector<int> done(kItems, 0);
      std::atomic<int> next{0};
      pool.run_sharing([&](int) {
        for (int i = next.fetch_add(1); i < kItems; i = next.fetch_add(1)) ++done[static_cast<size_t>(i)];
      });
      for (const int count : done) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPoolTest, run_and_run_sharing_may_follow_each_other) {
  ThreadPool pool(4);
  int64_t all = 0;
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int> calls{0};
    pool.run_sharing([&](int) { calls.fetch_add(1); });
    ASSERT_GE(calls.load(), 1);
    ASSERT_LE(calls.load(), 4);
    calls = 0;
    pool.run([&](int) { calls.fetch_add(1); });
    all += calls.load();
  }
  EXPECT_EQ(all, 4 * 2000);
}

TEST(ThreadPoolTest, parallel_for_covers_the_range_once) {
  ThreadPool pool(3);
  for (const int64_t count : {0, 1, 2, 3, 4, 100, 1001}) {
    for (const int64_t least : {0, 1, 10, 5000}) {
      std::vector<int> seen(static_cast<size_t>(count), 0);
      pool.parallel_for(count, least, [&](int64_t begin, int64_t end, int worker) {
        EXPECT_GE(worker, 0);
        EXPECT_LT(worker, 3);
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      for (const int times : seen) ASSERT_EQ(times, 1);
    }
  }
}

TEST(ThreadPoolTest, parallel_for_leaves_small_work_to_the_caller) {
  ThreadPool pool(4);
  int calls = 0;
  pool.parallel_for(99, 100, [&](int64_t begin, int64_t end, int worker) {
    ++calls;
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 99);
    EXPECT_EQ(worker, 0);
  });
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPoolTest, many_pools_come_and_go) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(1 + round % 4);
    std::atomic<int> calls{0};
    if (round % 3 != 0) pool.run([&](int) { calls.fetch_add(1); });
    EXPECT_EQ(calls.load(), round % 3 != 0 ? pool.size() : 0);
  }
}

TEST(ThreadPoolTest, an_absurd_number_of_threads_is_refused) {
  for (const int threads : {-1, ThreadPool::kMaxThreads + 1}) {
    try {
      ThreadPool pool(threads);
      FAIL() << threads;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("num_threads=" + std::to_string(threads)), std::string::npos);
    }
  }
}

TEST(ThreadPoolTest, a_forked_child_gets_an_error_and_no_hang) {
  ThreadPool pool(2);
  pool.run([](int) {});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int code = 1;
    try {
      pool.run([](int) {});
    } catch (const Error& error) {
      code = error.kind() == ErrorKind::kInternal ? 0 : 2;
    }
    _exit(code);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  pool.run([](int) {});  // the parent's pool still works
}

TEST(ThreadPoolTest, a_forked_child_can_destroy_the_pool_and_make_its_own) {
  auto pool = std::make_unique<ThreadPool>(2);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    pool.reset();
    ThreadPool own(1);
    int calls = 0;
    own.run([&](int) { ++calls; });
    _exit(calls == 1 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(HostTest, there_is_a_core_and_no_more_than_processors) {
  EXPECT_GE(physical_core_count(), 1);
  EXPECT_LE(physical_core_count(), static_cast<int>(std::thread::hardware_concurrency()));
  EXPECT_EQ(ThreadPool(0).size(), physical_core_count());
}

TEST(HostTest, memory_is_some) {
  EXPECT_GT(available_host_memory(), int64_t{1} << 20);
}

}  // namespace
}  // namespace quire
