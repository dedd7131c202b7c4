#include "kv/block_pool.h"

#include <gtest/gtest.h>

#include <set>

#include "quire/error.h"

namespace quire {
namespace {

TEST(BlockPool, gives_every_block_once) {
  BlockPool pool(5);
  std::set<int32_t> blocks;
  for (int i = 0; i < 5; ++i) blocks.insert(pool.take());
  EXPECT_EQ(blocks, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.num_used(), 5);
  EXPECT_THROW(pool.take(), Error);
}

TEST(BlockPool, counts_owners_and_keeps_a_block_without_them_until_it_is_given_back) {
  BlockPool pool(2);
  const int32_t block = pool.take();
  pool.retain(block);
  EXPECT_EQ(pool.references(block), 2);
  EXPECT_EQ(pool.release(block), 1);
  EXPECT_EQ(pool.release(block), 0);
  EXPECT_EQ(pool.num_used(), 0);
  EXPECT_EQ(pool.num_free(), 1) << "kept";
  pool.retain(block);
  EXPECT_EQ(pool.num_used(), 1);
  pool.release(block);
  pool.give_back(block);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.take(), block) << "the one given back last is the first to be taken";
}

TEST(BlockPool, may_have_no_blocks) {
  BlockPool pool(0);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_THROW(pool.take(), Error);
}

TEST(BlockPool, refuses_what_would_break_its_counts) {
  BlockPool pool(2);
  EXPECT_THROW(BlockPool(-1), Error);
  EXPECT_THROW(pool.retain(0), Error) << "a free block";
  EXPECT_THROW(pool.release(0), Error) << "a free block";
  EXPECT_THROW(pool.give_back(0), Error) << "a free block";
  const int32_t block = pool.take();
  EXPECT_THROW(pool.give_back(block), Error) << "a used block";
  for (const int32_t outside : {-1, 2}) {
    EXPECT_THROW(pool.references(outside), Error);
    EXPECT_THROW(pool.release(outside), Error);
  }
  pool.release(block);
  EXPECT_THROW(pool.release(block), Error) << "a kept block";
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.num_used(), 0);
}

}  // namespace
}  // namespace quire
