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

namespace quire::gpu {
namespace {

constexpr int64_t kBufferLines = 32 * 1024;
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

/// What all ranks do in call `number`, drawn from it.
struct Plan {
  explicit Plan(uint64_t call, int num_ranks) {
    std::mt19937 generator(static_cast<uint32_t>(call * 77 + 5));
    const auto draw = [&](int64_t most) { return static_cast<int64_t>(generator() % static_cast<uint64_t>(most)); };
    kind = static_cast<int>(draw(4));
    adds = draw(2) == 1;
    threads = 1 + draw(70);
    const int64_t most = draw(8) == 0 ? 6000 : 300;
    count = 1 + draw(most);
    if (kind == 1 || kind == 2) {
      const int64_t units = units_of<float>(count);
      part_units = (units + num_ranks - 1) / num_ranks;
      // Ranks whose part is empty hear of each other in no call of this kind: messages this short go at once.
      if ((num_ranks - 1) * part_units >= units) part_units = 0;
    }
    rows = 1 + draw(5);
    columns = 1 + draw(150);
  }

  int kind;  ///< 0 at once, 1 and 2 in parts, 3 gather
  bool adds;
  int64_t threads, count, part_units = 0, rows, columns;
};

template <int kRanks>
void reduce(const Machine& machine, int rank, uint64_t call, const Plan& plan) {
  std::vector<float> x(static_cast<size_t>(plan.count)), added(x.size(), 0.5f);
  for (int64_t i = 0; i < plan.count; ++i) x[static_cast<size_t>(i)] = number_at(call, rank, i);
  const ReduceChunk chunk{.x = x.data(),
                          .add_to = plan.adds ? added.data() : nullptr,
                          .scale = 0.75f,
                          .count = plan.count,
                          .part_units = plan.part_units,
                          .aligned = call % 3 != 0};
  const PeerView& view = machine.view(rank);
  const PeerCall number = peer_call(call, view);
  for (int64_t thread = 0; thread < plan.threads; ++thread) {
    const UnitRange range{thread, plan.threads};
    if (plan.part_units == 0) {
      const Unit<float> own = load_unit(x.data(), thread, plan.count, chunk.aligned);
      reduce_at_once<float, kRanks>(view, number, chunk, range, own);
    } else if (plan.adds) {
      reduce_in_parts<float, kRanks, true>(view, number, chunk, range);
    } else {
      reduce_in_parts<float, kRanks, false>(view, number, chunk, range);
    }
  }
  for (int64_t i = 0; i < plan.count; ++i) {
    const float sum = sum_at(call, machine.num_ranks(), i);
    const auto k = static_cast<size_t>(i);
    const float expected = plan.adds ? fmaf(0.75f, sum, 0.5f) : sum;
    ASSERT_EQ(plan.adds ? added[k] : x[k], expected) << "call " << call << " rank " << rank << " " << i;
  }
}

template <int kRanks>
void gather(const Machine& machine, int rank, uint64_t call, const Plan& plan) {
  const int num_ranks = machine.num_ranks();
  const Share own = share_of_rank(plan.columns, rank, num_ranks);
  std::vector<float> x(static_cast<size_t>(plan.rows * own.count)), out(static_cast<size_t>(plan.rows * plan.columns));
  for (int64_t row = 0; row < plan.rows; ++row) {
    for (int64_t c = 0; c < own.count; ++c) {
      x[static_cast<size_t>(row * own.count + c)] = number_at(call, 0, row * plan.columns + own.first + c);
    }
  }
  GatherChunk chunk{.x = x.data(),
                    .x_stride = own.count,
                    .out = out.data(),
                    .out_stride = plan.columns,
                    .rows = static_cast<int>(plan.rows),
                    .first = {},
                    .columns = {},
                    .aligned = false};
  int64_t offsets = plan.columns;
  for (int r = 0; r < num_ranks; ++r) {
    const Share share = share_of_rank(plan.columns, r, num_ranks);
    chunk.first[r] = static_cast<int>(share.first);
    chunk.columns[r] = static_cast<int>(share.count);
    offsets |= share.first | share.count;
  }
  chunk.aligned = offsets % 4 == 0;
  const PeerView& view = machine.view(rank);
  for (int64_t thread = 0; thread < plan.threads; ++thread) {
    gather_columns<kRanks>(view, peer_call(call, view), chunk, {thread, plan.threads});
  }
  for (int64_t i = 0; i < plan.rows * plan.columns; ++i) {
    ASSERT_EQ(out[static_cast<size_t>(i)], number_at(call, 0, i)) << "call " << call << " rank " << rank << " " << i;
  }
}

template <int kRanks>
void make_calls(int num_ranks, uint64_t calls) {
  Machine machine(num_ranks);
  machine.run([&](int rank) {
    std::mt19937 generator(static_cast<uint32_t>(rank));
    for (uint64_t call = 0; call < calls && !testing::Test::HasFatalFailure(); ++call) {
      if (generator() % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(generator() % 2000));
      const Plan plan(call, num_ranks);
      if (plan.kind == 3) {
        gather<kRanks>(machine, rank, call, plan);
      } else {
        reduce<kRanks>(machine, rank, call, plan);
      }
    }
  });
  EXPECT_TRUE(machine.guards_untouched());
  EXPECT_EQ(machine.words().stop, kGoOn);
}

TEST(PeerExchangeTest, any_calls_one_after_the_other_give_the_same_on_two_ranks) {
  make_calls<2>(2, 4000);
}

TEST(PeerExchangeTest, any_calls_one_after_the_other_give_the_same_on_more_ranks) {
  make_calls<4>(3, 300);
  make_calls<4>(4, 300);
  make_calls<8>(5, 150);
  make_calls<8>(8, 150);
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
