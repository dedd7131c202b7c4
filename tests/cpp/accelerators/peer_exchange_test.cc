// What a thread of the kernels does in which ranks write into each other's memory (kernels_cuda/comm), on the CPU: a
// processor's thread stands for a rank and runs its GPU's threads one after the other. Says what is sent where, who
// waits for what, and that buffers are not overwritten while they are read; nothing of NVIDIA's memory or of PTX.
#include "kernels_cuda/comm/peer_exchange.cuh"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "core/dtype.h"
#include "kernels_cuda/comm/cut_messages.h"

namespace quire::gpu {
namespace {

/// Little, so that messages are cut.
constexpr int64_t kBufferLines = 4 * 1024;
constexpr int64_t kGuardLines = 64;

/// Ranks with inboxes in this process's memory.
class Machine {
 public:
  explicit Machine(int num_ranks) : words_{}, inboxes_(static_cast<size_t>(num_ranks)) {
    words_.limit_ns = words_.first_limit_ns = 20'000'000'000;
    PeerView view{.inboxes = {},
                  .tickets = nullptr,
                  .words = &words_,
                  .buffer_lines = kBufferLines,
                  .rank = 0,
                  .num_ranks = num_ranks};
    for (size_t r = 0; r < inboxes_.size(); ++r) {
      inboxes_[r].resize(2 * kBufferLines + kGuardLines);
      view.inboxes[r] = inboxes_[r].data();
    }
    for (int r = 0; r < num_ranks; ++r) {
      view.rank = r;
      views_.push_back(view);
    }
  }

  int num_ranks() const { return static_cast<int>(views_.size()); }
  const PeerView& view(int rank) const { return views_[static_cast<size_t>(rank)]; }
  RankWords& words() { return words_; }

  /// Each rank in a thread of its own: work(rank).
  void run(const std::function<void(int)>& work) const {
    std::vector<std::thread> threads;
    for (int r = 0; r < num_ranks(); ++r) threads.emplace_back(work, r);
    for (std::thread& thread : threads) thread.join();
  }

  bool guards_untouched() const {
    for (const std::vector<Line>& inbox : inboxes_) {
      for (size_t i = 2 * kBufferLines; i < inbox.size(); ++i) {
        if (inbox[i].halves[0] != 0 || inbox[i].halves[1] != 0) return false;
      }
    }
    return true;
  }

 private:
  RankWords words_;
  std::vector<std::vector<Line>> inboxes_;
  std::vector<PeerView> views_;
};

/// The same number on every rank that asks, different for every place.
float number_at(uint64_t call, int rank, int64_t i) {
  const uint64_t mixed = (call * 1000003 + static_cast<uint64_t>(rank) * 7919 + static_cast<uint64_t>(i) + 1) *
                         uint64_t{0x9e3779b97f4a7c15};
  return static_cast<float>(static_cast<int32_t>(mixed >> 40) - (1 << 23)) / static_cast<float>(1 << 20);
}

float sum_at(uint64_t call, int num_ranks, int64_t i) {
  float sum = number_at(call, 0, i);
  for (int r = 1; r < num_ranks; ++r) sum += number_at(call, r, i);
  return sum;
}

/// What all ranks do, drawn from the number of the time.
struct Plan {
  explicit Plan(uint64_t time) {
    std::mt19937 generator(static_cast<uint32_t>(time * 77 + 5));
    const auto draw = [&](int64_t most) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(most)); };
    gathers = draw(4) == 0;
    adds = draw(2) == 1;
    threads = 1 + draw(70);
    count = 1 + draw(draw(8) == 0 ? 12000 : 300);
    rows = 1 + draw(5);
    columns = 1 + draw(draw(8) == 0 ? 9000 : 150);
  }

  bool gathers, adds;
  int64_t threads, count, rows, columns;
};

/// Where ranks begin to share work here: as early as may be.
int64_t share_from_bytes(int num_ranks) {
  return kUnitBytes * num_ranks * num_ranks;
}

/// A rank that takes part in messages one after the other, each of which may be several calls.
template <int kRanks>
class Member {
 public:
  Member(const Machine& machine, int rank) : machine_(machine), view_(machine.view(rank)), rank_(rank) {}

  void take_part(uint64_t time) {
    const Plan plan(time);
    plan.gathers ? gather(time, plan) : reduce(time, plan);
  }

 private:
  void reduce(uint64_t time, const Plan& plan) {
    // One element in front, so that memory is not aligned half of the times.
    const int64_t skipped = static_cast<int64_t>(time % 2);
    std::vector<float> x(static_cast<size_t>(plan.count + skipped)), added(x.size(), 0.5f);
    for (int64_t i = 0; i < plan.count; ++i) x[static_cast<size_t>(i + skipped)] = number_at(time, rank_, i);
    AllReduceArgs args{.x = Tensor(x.data() + skipped, DType::kFloat32, {1, plan.count}), .scale = 0.75f};
    if (plan.adds) args.add_to = Tensor(added.data() + skipped, DType::kFloat32, {1, plan.count});
    const int num_ranks = machine_.num_ranks();
    cut_reduce(args, num_ranks, kBufferLines, num_ranks > 2 || time % 3 == 0 ? share_from_bytes(num_ranks) : 1 << 30,
               [&](const ReduceChunk& chunk) {
                 const PeerCall call = peer_call(calls_++, view_);
                 for (int64_t thread = 0; thread < plan.threads; ++thread) run(call, chunk, {thread, plan.threads});
               });
    for (int64_t i = 0; i < plan.count; ++i) {
      const float sum = sum_at(time, num_ranks, i);
      const auto k = static_cast<size_t>(i + skipped);
      const float expected = plan.adds ? fmaf(0.75f, sum, 0.5f) : sum;
      ASSERT_EQ(plan.adds ? added[k] : x[k], expected) << "time " << time << " rank " << rank_ << " " << i;
    }
  }

  void run(const PeerCall& call, const ReduceChunk& chunk, const UnitRange& range) {
    if (chunk.part_units == 0) {
      const Unit<float> own = load_unit(static_cast<const float*>(chunk.x), range.first, chunk.count, chunk.aligned);
      reduce_at_once<float, kRanks>(view_, call, chunk, range, own);
    } else if (chunk.add_to != nullptr) {
      reduce_in_parts<float, kRanks, true>(view_, call, chunk, range);
    } else {
      reduce_in_parts<float, kRanks, false>(view_, call, chunk, range);
    }
  }

  void gather(uint64_t time, const Plan& plan) {
    const int num_ranks = machine_.num_ranks();
    const Share own = share_of_rank(plan.columns, rank_, num_ranks);
    std::vector<float> x(static_cast<size_t>(plan.rows * own.count) + 1);
    std::vector<float> out(static_cast<size_t>(plan.rows * plan.columns));
    for (int64_t row = 0; row < plan.rows; ++row) {
      for (int64_t c = 0; c < own.count; ++c) {
        x[static_cast<size_t>(row * own.count + c)] = number_at(time, 0, row * plan.columns + own.first + c);
      }
    }
    cut_gather({.x = Tensor(x.data(), DType::kFloat32, {plan.rows, own.count}),
                .out = Tensor(out.data(), DType::kFloat32, {plan.rows, plan.columns})},
               num_ranks, kBufferLines, [&](const GatherChunk& chunk) {
                 const PeerCall call = peer_call(calls_++, view_);
                 for (int64_t thread = 0; thread < plan.threads; ++thread) {
                   gather_columns<kRanks>(view_, call, chunk, {thread, plan.threads});
                 }
               });
    for (int64_t i = 0; i < plan.rows * plan.columns; ++i) {
      ASSERT_EQ(out[static_cast<size_t>(i)], number_at(time, 0, i)) << "time " << time << " rank " << rank_ << " " << i;
    }
  }

  const Machine& machine_;
  const PeerView& view_;
  const int rank_;
  uint64_t calls_ = 0;
};

template <int kRanks>
void send_messages(int num_ranks, uint64_t times) {
  Machine machine(num_ranks);
  machine.run([&](int rank) {
    Member<kRanks> member(machine, rank);
    std::mt19937 generator(static_cast<uint32_t>(rank));
    for (uint64_t time = 0; time < times && !testing::Test::HasFatalFailure(); ++time) {
      if (generator() % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(generator() % 2000));
      member.take_part(time);
    }
  });
  EXPECT_TRUE(machine.guards_untouched());
  EXPECT_EQ(machine.words().stop, kGoOn);
}

TEST(PeerExchangeTest, any_messages_one_after_the_other_arrive_on_two_ranks) {
  send_messages<2>(2, 4000);
}

TEST(PeerExchangeTest, any_messages_one_after_the_other_arrive_on_more_ranks) {
  send_messages<4>(3, 300);
  send_messages<4>(4, 300);
  send_messages<8>(5, 150);
  send_messages<8>(8, 150);
}

template <typename T, DType kType>
void add_rounded_numbers() {
  Machine machine(2);
  constexpr int64_t kCount = 1003;
  std::vector<std::vector<T>> results(2, std::vector<T>(kCount));
  std::vector<std::vector<float>> sums(2, std::vector<float>(kCount, 1.0f));
  std::vector<float> added(kCount, 1.0f);
  for (uint64_t call = 0; call < 4; ++call) {
    machine.run([&](int rank) {
      auto& x = results[static_cast<size_t>(rank)];
      for (int64_t i = 0; i < kCount; ++i) x[static_cast<size_t>(i)] = from_float<T>(number_at(call, rank, i));
      const bool adds = call >= 2;
      const int64_t part_units = call % 2 == 0 ? 0 : (units_of<T>(kCount) + 1) / 2;
      const ReduceChunk chunk{.x = x.data(),
                              .add_to = adds ? sums[static_cast<size_t>(rank)].data() : nullptr,
                              .scale = 2.0f,
                              .count = kCount,
                              .part_units = part_units,
                              .aligned = true};
      const PeerView& view = machine.view(rank);
      const PeerCall number = peer_call(call, view);
      for (int64_t thread = 0; thread < 40; ++thread) {
        if (part_units == 0) {
          reduce_at_once<T, 2>(view, number, chunk, {thread, 40}, load_unit(x.data(), thread, kCount, true));
        } else if (adds) {
          reduce_in_parts<T, 2, true>(view, number, chunk, {thread, 40});
        } else {
          reduce_in_parts<T, 2, false>(view, number, chunk, {thread, 40});
        }
      }
    });
    for (int64_t i = 0; i < kCount; ++i) {
      const float sum = to_float(from_float<T>(number_at(call, 0, i))) + to_float(from_float<T>(number_at(call, 1, i)));
      for (size_t rank = 0; rank < 2; ++rank) {
        if (call < 2) {
          ASSERT_EQ(to_float(results[rank][static_cast<size_t>(i)]), to_float(from_float<T>(sum))) << i;
        } else {
          added[static_cast<size_t>(i)] =
              rank == 0 ? fmaf(2.0f, sum, added[static_cast<size_t>(i)]) : added[static_cast<size_t>(i)];
          ASSERT_EQ(sums[rank][static_cast<size_t>(i)], added[static_cast<size_t>(i)]) << i;
        }
      }
    }
  }
}

TEST(PeerExchangeTest, sums_of_16_bit_numbers_are_rounded_once_or_not_at_all) {
  add_rounded_numbers<BFloat, DType::kBFloat16>();
  add_rounded_numbers<Half, DType::kFloat16>();
}

TEST(PeerExchangeTest, numbers_of_calls_are_never_zero_and_take_turns) {
  const Machine machine(2);
  uint32_t before = 0;
  for (const uint64_t first : {uint64_t{0}, (uint64_t{1} << 32) - 4, (uint64_t{1} << 33) - 5}) {
    for (uint64_t count = first; count < first + 8; ++count) {
      const PeerCall call = peer_call(count, machine.view(0));
      EXPECT_NE(call.number, 0U);
      EXPECT_NE(call.number, before);
      EXPECT_EQ(call.first_line, count % 2 == 0 ? 0 : kBufferLines);
      before = call.number;
    }
  }
}

/// Rank 0 of three waits; rank 1 may be there too.
void wait_in_vain(Machine& machine, int present) {
  machine.run([&](int rank) {
    if (rank >= present) return;
    float x[4] = {1, 2, 3, 4};
    const ReduceChunk chunk{.x = x, .add_to = nullptr, .scale = 1.0f, .count = 4, .part_units = 0, .aligned = false};
    const PeerView& view = machine.view(rank);
    reduce_at_once<float, 4>(view, peer_call(0, view), chunk, {0, 1}, load_unit(x, 0, 4, false));
    EXPECT_EQ(x[3], 4.0f);
  });
}

TEST(PeerExchangeTest, who_waits_too_long_says_for_whom) {
  Machine machine(3);
  machine.words().limit_ns = machine.words().first_limit_ns = 50'000'000;
  wait_in_vain(machine, 2);
  EXPECT_EQ(machine.words().stop, kWaitedTooLong);
  for (int rank = 0; rank < 2; ++rank) {
    // Two that wait may wait for each other no longer: both know of rank 2 only.
    EXPECT_EQ(machine.words().missing[rank], 3U);
  }
  EXPECT_EQ(machine.words().missing[2], 0U);
}

TEST(PeerExchangeTest, who_waits_stops_when_told) {
  Machine machine(2);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::atomic_ref(machine.words().stop).store(kAborted);
  });
  const auto begin = std::chrono::steady_clock::now();
  wait_in_vain(machine, 1);
  other.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(machine.words().stop, kAborted);
}

}  // namespace
}  // namespace quire::gpu
