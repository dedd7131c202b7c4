#include "kv/block_table.h"

#include <gtest/gtest.h>

#include "quire/error.h"

namespace quire {
namespace {

TEST(BlockTable, holds_blocks_in_order_and_gives_back_the_last_first) {
  BlockTable table;
  EXPECT_TRUE(table.empty());
  for (const int32_t block : {7, 3, 5}) table.append(block);
  table.replace(1, 4);
  EXPECT_EQ(table.size(), 3);
  EXPECT_EQ(std::vector<int32_t>(table.blocks().begin(), table.blocks().end()), (std::vector<int32_t>{7, 4, 5}));
  EXPECT_EQ(table.pop(), 5);
  EXPECT_EQ(table[table.size() - 1], 4);
}

TEST(BlockTable, refuses_what_is_outside) {
  BlockTable table;
  EXPECT_THROW(table.pop(), Error);
  table.append(7);
  EXPECT_THROW(table[1], Error);
  EXPECT_THROW(table[-1], Error);
  EXPECT_THROW(table.replace(1, 0), Error);
}

}  // namespace
}  // namespace quire
