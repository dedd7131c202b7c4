#include "kv/layout.h"

#include <gtest/gtest.h>

#include <limits>

namespace quire {
namespace {

TEST(KvLayout, counts_the_last_block_even_if_it_is_partial) {
  EXPECT_EQ(blocks_for_tokens(0, 16), 0);
  EXPECT_EQ(blocks_for_tokens(1, 16), 1);
  EXPECT_EQ(blocks_for_tokens(16, 16), 1);
  EXPECT_EQ(blocks_for_tokens(17, 16), 2);
}

TEST(KvLayout, counts_without_overflow) {
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(blocks_for_tokens(kMost, 16), 134217728);
  EXPECT_EQ(tokens_for_blocks(kMost, 128), int64_t{kMost} * 128);
}

}  // namespace
}  // namespace quire
