#include "spec/alibi.h"

#include <cmath>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(Alibi, slopes_of_a_power_of_two_heads_fall_by_one_factor) {
  const std::vector<double> slopes = alibi_slopes({}, 8);
  ASSERT_EQ(slopes.size(), 8u);
  for (int i = 0; i < 8; ++i) EXPECT_DOUBLE_EQ(slopes[static_cast<size_t>(i)], std::exp2(-(i + 1)));
  EXPECT_DOUBLE_EQ(alibi_slopes({.max_bias = 16}, 4)[0], std::exp2(-4));
}

// The paper's own rule: those of the next smaller power of two, then every second of the next larger one.
TEST(Alibi, other_numbers_of_heads_take_every_second_slope_of_the_next_power) {
  for (const int32_t heads : {3, 5, 6, 7, 12, 40, 112}) {
    const std::vector<double> slopes = alibi_slopes({}, heads);
    ASSERT_EQ(slopes.size(), static_cast<size_t>(heads));
    const int32_t closest = 1 << static_cast<int32_t>(std::floor(std::log2(heads)));
    const double base = std::exp2(-8.0 / closest);
    const double extra = std::exp2(-4.0 / closest);
    for (int32_t i = 0; i < heads; ++i) {
      const double expected = i < closest ? std::pow(base, i + 1) : std::pow(extra, 2 * (i - closest) + 1);
      EXPECT_NEAR(slopes[static_cast<size_t>(i)], expected, 1e-15) << heads << " heads, head " << i;
    }
  }
}

}  // namespace
}  // namespace quire
