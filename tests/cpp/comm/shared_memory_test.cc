#include "comm/shared_memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "core/refusal.h"

namespace quire {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

struct NoStream final : Stream {
  void synchronize() override {}
};

std::vector<float> random_values(uint32_t seed, int64_t count) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random()) * 0x1p-31f - 1.0f;
  return values;
}

/// Equal to the last bit.
bool same(const std::vector<float>& left, const std::vector<float>& right) {
  return left.size() == right.size() && std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) == 0;
}

/// Run something on a thread for each rank.
void on_all(int num_ranks, const std::function<void(int rank)>& work) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) threads.emplace_back(work, rank);
  for (std::thread& thread : threads) thread.join();
}

class SharedMemory : public testing::TestWithParam<int> {
 protected:
  const int num_ranks_ = GetParam();
  Communicators ranks_ = connect_shared_memory(num_ranks_);
  NoStream stream_;
};

TEST_P(SharedMemory, knows_its_ranks) {
  ASSERT_EQ(ranks_.size(), static_cast<size_t>(num_ranks_));
  for (int rank = 0; rank < num_ranks_; ++rank) {
    EXPECT_EQ(ranks_[rank]->rank(), rank);
    EXPECT_EQ(ranks_[rank]->num_ranks(), num_ranks_);
  }
}

TEST_P(SharedMemory, sums_in_the_order_of_the_ranks_and_gives_all_the_same_bits) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 5}, {7, 1025}, {64, 1024}, {65, 1025}}) {
    std::vector<std::vector<float>> parts;
    for (int rank = 0; rank < num_ranks_; ++rank) parts.push_back(random_values(rank + 1, rows * columns));
    std::vector<float> expected = parts[0];
    for (int rank = 1; rank < num_ranks_; ++rank) {
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += parts[rank][i];
    }
    on_all(num_ranks_, [&](int rank) {
      ranks_[rank]->all_reduce({.x = Tensor(parts[rank].data(), DType::kFloat32, {rows, columns})}, stream_);
    });
    for (const std::vector<float>& part : parts) EXPECT_TRUE(same(part, expected)) << rows << " x " << columns;
  }
}

TEST_P(SharedMemory, adds_the_scaled_sum_to_what_all_have) {
  constexpr int64_t kColumns = 333;
  for (const int64_t rows : {5, 250}) {
    std::vector<std::vector<float>> parts, outs;
    for (int rank = 0; rank < num_ranks_; ++rank) {
      parts.push_back(random_values(rank + 1, rows * kColumns));
      outs.push_back(random_values(99, rows * kColumns));
    }
    std::vector<float> expected = outs[0];
    for (size_t i = 0; i < expected.size(); ++i) {
      float sum = parts[0][i];
      for (int rank = 1; rank < num_ranks_; ++rank) sum += parts[rank][i];
      expected[i] += 0.3f * sum;
    }
    on_all(num_ranks_, [&](int rank) {
      ranks_[rank]->all_reduce({.x = Tensor(parts[rank].data(), DType::kFloat32, {rows, kColumns}),
                                .scale = 0.3f,
                                .add_to = Tensor(outs[rank].data(), DType::kFloat32, {rows, kColumns})},
                               stream_);
    });
    for (const std::vector<float>& out : outs) EXPECT_TRUE(same(out, expected)) << rows;
  }
}

TEST_P(SharedMemory, gathers_columns_that_do_not_go_evenly) {
  for (const int64_t columns : {1, 5, 10, 97, 100'003}) {
    constexpr int64_t kRows = 3;
    const std::vector<float> whole = random_values(7, kRows * columns);
    std::vector<std::vector<float>> outs(num_ranks_, std::vector<float>(whole.size(), -1.0f));
    on_all(num_ranks_, [&](int rank) {
      const Share share = share_of_rank(columns, rank, num_ranks_);
      std::vector<float> own;
      for (int64_t row = 0; row < kRows; ++row) {
        const auto first = whole.begin() + row * columns + share.first;
        own.insert(own.end(), first, first + share.count);
      }
      ranks_[rank]->all_gather({.x = Tensor(own.data(), DType::kFloat32, {kRows, share.count}),
                                .out = Tensor(outs[rank].data(), DType::kFloat32, {kRows, columns})},
                               stream_);
      std::fill(own.begin(), own.end(), -2.0f);  // nobody reads it any more
    });
    for (const std::vector<float>& out : outs) EXPECT_TRUE(same(out, whole)) << columns;
  }
}

TEST_P(SharedMemory, keeps_calls_apart_however_fast_they_follow) {
  constexpr int kRounds = 2000;
  std::atomic<int> num_wrong{0};
  on_all(num_ranks_, [&](int rank) {
    for (int round = 0; round < kRounds; ++round) {
      // Few elements and many by turns, which are done in different ways.
      const int64_t size = round % 100 == 99 ? 70'000 : 3;
      std::vector<float> values(static_cast<size_t>(size), 1.0f);
      values[0] = static_cast<float>(round);
      values.back() = static_cast<float>(rank);
      ranks_[rank]->all_reduce({.x = Tensor(values.data(), DType::kFloat32, {1, size})}, stream_);
      const auto n = static_cast<float>(num_ranks_);
      if (values[0] != n * static_cast<float>(round) || values[1] != n || values.back() != n * (n - 1) / 2) ++num_wrong;
    }
  });
  EXPECT_EQ(num_wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, SharedMemory, testing::Values(1, 2, 3, 4));

class SharedMemoryFailure : public testing::Test {
 protected:
  /// What a rank is told whose call the others do not join.
  static Refusal call(Communicator& rank) {
    return refusal_of([&] {
      float value = 1.0f;
      NoStream stream;
      rank.all_reduce({.x = Tensor(&value, DType::kFloat32, {1, 1})}, stream);
    });
  }
};

TEST_F(SharedMemoryFailure, abort_wakes_who_waits_and_refuses_who_comes_later) {
  const Communicators ranks = connect_shared_memory(3);
  Refusal of_first, of_second;
  std::thread first([&] { of_first = call(*ranks[0]); });
  std::thread second([&] { of_second = call(*ranks[1]); });
  std::this_thread::sleep_for(milliseconds(20));  // long enough that both sleep
  const auto begin = Clock::now();
  ranks[2]->abort();
  first.join();
  second.join();
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(of_first.kind, ErrorKind::kDevice);
  EXPECT_TRUE(of_first.names("another rank has failed")) << of_first.message;
  EXPECT_EQ(of_second.kind, ErrorKind::kDevice);
  EXPECT_EQ(call(*ranks[2]).kind, ErrorKind::kDevice);
}

TEST_F(SharedMemoryFailure, a_rank_that_does_not_come_is_given_up_and_refused_when_it_does) {
  const Communicators ranks = connect_shared_memory(2, milliseconds(50));
  const Refusal refusal = call(*ranks[0]);
  EXPECT_EQ(refusal.kind, ErrorKind::kDevice);
  EXPECT_TRUE(refusal.names("50 ms")) << refusal.message;
  EXPECT_EQ(call(*ranks[1]).kind, ErrorKind::kDevice);
}

TEST_F(SharedMemoryFailure, calls_of_different_shapes_are_a_bug) {
  const Communicators ranks = connect_shared_memory(2);
  std::vector<Refusal> refusals(2);
  on_all(2, [&](int rank) {
    refusals[rank] = refusal_of([&] {
      std::vector<float> values(8);
      NoStream stream;
      try {
        ranks[rank]->all_reduce({.x = Tensor(values.data(), DType::kFloat32, {2, 3 + rank})}, stream);
      } catch (const Error&) {
        ranks[rank]->abort();
        throw;
      }
    });
  });
  EXPECT_TRUE(refusals[0].kind == ErrorKind::kInternal || refusals[1].kind == ErrorKind::kInternal);
}

TEST_F(SharedMemoryFailure, no_ranks_are_refused) {
  EXPECT_EQ(refusal_of([] { connect_shared_memory(0); }).kind, ErrorKind::kInvalidArgument);
}

TEST(ShareOfRank, deals_out_everything_once_in_order) {
  for (int64_t count = 0; count < 40; ++count) {
    for (int num_ranks = 1; num_ranks < 9; ++num_ranks) {
      int64_t next = 0;
      for (int rank = 0; rank < num_ranks; ++rank) {
        const Share share = share_of_rank(count, rank, num_ranks);
        EXPECT_EQ(share.first, next);
        next += share.count;
      }
      EXPECT_EQ(next, count);
    }
  }
  EXPECT_EQ(share_of_rank(10, 3, 4), (Share{9, 1}));
  EXPECT_EQ(share_of_rank(4, 1, 2), (Share{2, 2}));
}

}  // namespace
}  // namespace quire
