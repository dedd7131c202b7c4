#include "kernels_cuda/common/divisor.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace quire::gpu {
namespace {

constexpr int kMost = std::numeric_limits<int>::max();

/// What a wrong factor or shift gives wrong: numbers beside multiples of d, the largest ones above all.
void expect_divides(int d) {
  const Divisor divisor(d);
  ASSERT_EQ(static_cast<int>(divisor), d);
  std::mt19937 random(static_cast<unsigned>(d));
  const int64_t most_times = kMost / d;
  std::vector<int64_t> times = {0, 1, 2, most_times - 1, most_times};
  for (int i = 0; i < 20; ++i) times.push_back(static_cast<int64_t>(random()) % (most_times + 1));
  for (const int64_t multiple : times) {
    for (const int64_t beside : {-1, 0, 1}) {
      const auto n = static_cast<int>(std::clamp<int64_t>(multiple * d + beside, 0, kMost));
      ASSERT_EQ(n / divisor, n / d) << n << " / " << d;
      ASSERT_EQ(n % divisor, n % d) << n << " % " << d;
    }
  }
  ASSERT_EQ(kMost / divisor, kMost / d) << d;
}

TEST(Divisor, divides_by_all_small_numbers) {
  for (int d = 1; d <= 5000; ++d) expect_divides(d);
}

TEST(Divisor, divides_by_numbers_beside_powers_of_two) {
  for (int shift = 2; shift < 31; ++shift) {
    for (const int beside : {-1, 0, 1}) expect_divides((1 << shift) + beside);
  }
  expect_divides(kMost - 1);
  expect_divides(kMost);
}

TEST(Divisor, divides_by_any_number) {
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) expect_divides(static_cast<int>(random() >> 1 >> random() % 30) + 1);
}

}  // namespace
}  // namespace quire::gpu
