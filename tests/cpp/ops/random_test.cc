#include "backend/cpu/random.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <set>

namespace quire::cpu {
namespace {

using Words = std::array<uint32_t, 4>;

// Known answers published with Random123 (kat_vectors, philox4x32 10).
TEST(RandomTest, philox_gives_the_published_answers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomTest, a_draw_uses_every_bit_of_its_name_and_lies_below_one) {
  std::set<double> draws;
  int count = 0;
  for (int bit = 0; bit < 64; ++bit) {
    draws.insert(uniform_draw(uint64_t{1} << bit, 5, 9));
    draws.insert(uniform_draw(0, 5, 9 ^ (uint64_t{1} << bit)));
    if (bit < 32) draws.insert(uniform_draw(0, 5 ^ (uint32_t{1} << bit), 9));
    count += bit < 32 ? 3 : 2;
  }
  EXPECT_EQ(static_cast<int>(draws.size()), count);
  EXPECT_GE(*draws.begin(), 0.0);
  EXPECT_LT(*draws.rbegin(), 1.0);
  // The draw is the first word alone, over 2^32.
  EXPECT_EQ(uniform_draw(0, 0, 0), 0x6627e8d5 * 0x1p-32);
}

}  // namespace
}  // namespace quire::cpu
