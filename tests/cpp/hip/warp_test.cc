// The functions of warps that kernels run on AMD's waves, run by threads that stand for the lanes of a wave. What a
// wave may answer with anything, a lane of the other half or one that is elsewhere, is answered with noise or is a
// failure here.
#define __device__
#include "kernels_hip/warp.h"

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <bit>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace quire::gpu {
namespace {

/// The lanes of one wave, as many as run_wave() was told.
class MadeUpWave {
 public:
  static int lane() { return lane_; }

  template <typename T>
  static T read(T value, int lane, uint32_t lanes) {
    EXPECT_EQ(lane / 32, lane_ / 32) << "a lane of the other warp";
    EXPECT_TRUE((lanes >> lane_ % 32 & 1) != 0) << "not one of those that come along";
    EXPECT_TRUE((lanes >> lane % 32 & 1) != 0) << "a lane that does not come along";
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(value));
    const std::array<uint64_t, 64> all = exchange(bits, lanes);
    std::memcpy(&value, &all[static_cast<size_t>(lane)], sizeof(value));
    return value;
  }

  static uint64_t ballot(bool vote, uint32_t lanes) {
    const std::array<uint64_t, 64> votes = exchange(vote ? 1 : 0, lanes);
    const int begin = lane_ / 32 * 32;
    uint64_t bits = noise() & ~(uint64_t{lanes} << begin);
    for (int i = 0; i < 32; ++i) {
      if ((lanes >> i & 1) != 0) bits |= votes[static_cast<size_t>(begin + i)] << (begin + i);
    }
    return bits;
  }

  static uint64_t active() {
    const int begin = lane_ / 32 * 32;
    return (noise() & ~(uint64_t{0xffffffffu} << begin)) | uint64_t{active_} << begin;
  }

  static int lowest(uint32_t lanes) { return std::countr_zero(lanes); }

  static uint64_t noise() { return noise_(); }

  /// Of this lane's warp, who is here.
  static thread_local uint32_t active_;
  static thread_local int lane_;

 private:
  /// What every lane gives, to those of one warp that come along.
  static std::array<uint64_t, 64> exchange(uint64_t own, uint32_t lanes) {
    std::barrier<>& meeting = meeting_of(lane_ / 32, lanes);
    slots_[static_cast<size_t>(lane_)] = own;
    meeting.arrive_and_wait();
    std::array<uint64_t, 64> seen{};
    for (size_t i = 0; i < 64; ++i) {
      const bool comes_along = static_cast<int>(i) / 32 == lane_ / 32 && (lanes >> i % 32 & 1) != 0;
      seen[i] = comes_along ? slots_[i] : noise();
    }
    meeting.arrive_and_wait();
    return seen;
  }

  static std::barrier<>& meeting_of(int warp, uint32_t lanes) {
    const std::lock_guard lock(mutex_);
    auto& meeting = meetings_[{warp, lanes}];
    if (meeting == nullptr) meeting = std::make_unique<std::barrier<>>(std::popcount(lanes));
    return *meeting;
  }

  static thread_local std::mt19937_64 noise_;
  static inline std::mutex mutex_;
  static inline std::map<std::pair<int, uint32_t>, std::unique_ptr<std::barrier<>>> meetings_;
  static inline std::array<uint64_t, 64> slots_;
};

thread_local uint32_t MadeUpWave::active_ = 0xffffffffu;
thread_local int MadeUpWave::lane_ = 0;
thread_local std::mt19937_64 MadeUpWave::noise_{std::random_device()()};

using OwnWarp = Warp<MadeUpWave>;

void run_wave(int lanes, const std::function<void(int lane)>& program) {
  std::vector<std::thread> threads;
  for (int lane = 0; lane < lanes; ++lane) {
    threads.emplace_back([&program, lane] {
      MadeUpWave::lane_ = lane;
      program(lane);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// Some number of every lane's, with repetitions.
int number_of(int lane) {
  return (lane * lane + 11 * lane) % 7 - 3;
}

class WarpTest : public testing::TestWithParam<int> {};

TEST_P(WarpTest, a_lane_knows_its_place) {
  run_wave(GetParam(), [](int lane) {
    EXPECT_EQ(OwnWarp::lane(), lane % 32);
    EXPECT_EQ(OwnWarp::begin(), lane / 32 * 32);
  });
}

TEST_P(WarpTest, shuffles_read_lanes_of_their_own_warp) {
  run_wave(GetParam(), [](int lane) {
    const int begin = lane / 32 * 32, own = lane % 32;
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(OwnWarp::shuffle(lane, i), begin + i);
      EXPECT_EQ(OwnWarp::shuffle_xor(static_cast<double>(lane), i), begin + (own ^ i));
      EXPECT_EQ(OwnWarp::shuffle_up(static_cast<uint64_t>(lane) << 40, i),
                static_cast<uint64_t>(own < i ? lane : lane - i) << 40);
    }
  });
}

TEST_P(WarpTest, votes_are_those_of_their_own_warp) {
  run_wave(GetParam(), [](int lane) {
    uint32_t expected = 0;
    for (int i = 0; i < 32; ++i) expected |= static_cast<uint32_t>(number_of(lane / 32 * 32 + i) > 0) << i;
    EXPECT_EQ(OwnWarp::ballot(number_of(lane) > 0), expected);
    EXPECT_TRUE(OwnWarp::all(true));
    EXPECT_FALSE(OwnWarp::all(lane % 32 != 17));
    EXPECT_EQ(OwnWarp::all(lane < 32), lane < 32);  // the halves do not agree
    EXPECT_EQ(OwnWarp::active_lanes(), 0xffffffffu);
  });
}

TEST_P(WarpTest, lanes_find_those_with_their_own_value) {
  run_wave(GetParam(), [](int lane) {
    uint32_t expected = 0;
    for (int i = 0; i < 32; ++i) {
      expected |= static_cast<uint32_t>(number_of(lane / 32 * 32 + i) == number_of(lane)) << i;
    }
    EXPECT_EQ(OwnWarp::lanes_like(number_of(lane)), expected);
    EXPECT_EQ(OwnWarp::lanes_like(lane), uint32_t{1} << lane % 32);
    EXPECT_EQ(OwnWarp::lanes_like(-1), 0xffffffffu);
  });
}

TEST_P(WarpTest, the_largest_is_that_of_the_own_warp) {
  run_wave(GetParam(), [](int lane) {
    const auto value = [](int i) { return static_cast<uint32_t>(i * 0x9e3779b9u); };
    uint32_t expected = 0;
    for (int i = 0; i < 32; ++i) expected = std::max(expected, value(lane / 32 * 32 + i));
    EXPECT_EQ(OwnWarp::largest(value(lane)), expected);
  });
}

TEST_P(WarpTest, some_lanes_can_ask_whether_they_are_alike) {
  run_wave(GetParam(), [](int lane) {
    for (const uint32_t lanes : {0x80000000u, 0x00ff0ff0u, 0xffffffffu, 0x1u}) {
      if ((lanes >> lane % 32 & 1) == 0) continue;
      MadeUpWave::active_ = lanes;
      EXPECT_EQ(OwnWarp::active_lanes(), lanes);
      EXPECT_TRUE(OwnWarp::all_alike(lanes, lane / 32 + 5));
      EXPECT_EQ(OwnWarp::all_alike(lanes, lane), std::popcount(lanes) == 1);
    }
  });
}

TEST_P(WarpTest, halves_of_a_wave_may_part_ways) {
  run_wave(GetParam(), [](int lane) {
    const int rounds = lane < 32 ? 3 : 40;
    int sum = 0;
    for (int round = 0; round < rounds; ++round) sum += OwnWarp::shuffle_xor(lane, round % 32) - lane / 32 * 32;
    int expected = 0;
    for (int round = 0; round < rounds; ++round) expected += lane % 32 ^ round % 32;
    EXPECT_EQ(sum, expected);
    if (lane < 32) return;
    EXPECT_EQ(OwnWarp::ballot(lane % 2 == 0), 0x55555555u);
  });
}

INSTANTIATE_TEST_SUITE_P(Waves, WarpTest, testing::Values(32, 64));

}  // namespace
}  // namespace quire::gpu
