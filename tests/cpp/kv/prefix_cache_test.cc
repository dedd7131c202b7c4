#include "kv/prefix_cache.h"

#include <gtest/gtest.h>

#include <vector>

#include "quire/error.h"

namespace quire {
namespace {

using Tokens = std::vector<int32_t>;

/// Five blocks of two tokens.
class PrefixCacheTest : public testing::Test {
 protected:
  /// Compute and enter a block; the caller owns it.
  int32_t enter(int32_t parent, const Tokens& tokens) {
    const int32_t block = cache_.take();
    EXPECT_EQ(cache_.insert(parent, block, tokens), block);
    return block;
  }

  std::vector<int32_t> idle() const {
    std::vector<int32_t> blocks;
    cache_.list_idle(blocks);
    return blocks;
  }

  BlockPool pool_{5};
  PrefixCache cache_{pool_, 2, 42};
};

TEST_F(PrefixCacheTest, finds_a_block_by_its_tokens_and_all_before_them) {
  const int32_t first = enter(kNoBlock, {1, 2});
  const int32_t second = enter(first, {3, 4});
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}), first);
  EXPECT_EQ(cache_.find(first, Tokens{3, 4}), second);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{3, 4}), kNoBlock) << "the same tokens at another place";
  EXPECT_EQ(cache_.find(second, Tokens{3, 4}), kNoBlock);
  EXPECT_EQ(cache_.find(first, Tokens{3, 5}), kNoBlock);
}

TEST_F(PrefixCacheTest, finds_the_longest_cached_beginning) {
  const int32_t first = enter(kNoBlock, {1, 2});
  const int32_t second = enter(first, {3, 4});
  std::vector<int32_t> blocks = {7};
  cache_.find_prefix(Tokens{1, 2, 3, 4, 5, 6}, 3, 0, blocks);
  EXPECT_EQ(blocks, (std::vector<int32_t>{first, second}));
  cache_.find_prefix(Tokens{1, 2, 3, 4}, 1, 0, blocks);
  EXPECT_EQ(blocks, (std::vector<int32_t>{first})) << "no more than was asked for";
  cache_.find_prefix(Tokens{1, 2, 3, 4}, 2, 1, blocks);
  EXPECT_TRUE(blocks.empty()) << "of other keys";
}

TEST_F(PrefixCacheTest, keeps_key_sets_apart) {
  const int32_t first = enter(kNoBlock, {1, 2});
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}, 1), kNoBlock);
  const int32_t other = cache_.take();
  EXPECT_EQ(cache_.insert(kNoBlock, other, Tokens{1, 2}, 1), other);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}, 1), other);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}), first);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}, 2), kNoBlock);
}

TEST_F(PrefixCacheTest, answers_with_the_first_block_of_equal_content) {
  const int32_t first = enter(kNoBlock, {1, 2});
  const int32_t other = cache_.take();
  EXPECT_EQ(cache_.insert(kNoBlock, other, Tokens{1, 2}), first);
  EXPECT_FALSE(cache_.is_cached(other));
  EXPECT_EQ(cache_.num_cached(), 1);
}

TEST_F(PrefixCacheTest, counts_cached_blocks_without_owners_as_available) {
  const int32_t cached = enter(kNoBlock, {1, 2});
  const int32_t plain = cache_.take();
  EXPECT_EQ(cache_.num_available(), 3);
  cache_.release(plain);
  EXPECT_EQ(cache_.num_idle(), 0) << "a block that is not cached is free";
  cache_.release(cached);
  EXPECT_EQ(cache_.num_idle(), 1);
  EXPECT_EQ(cache_.num_available(), 5);
  cache_.retain(cached);
  EXPECT_EQ(cache_.num_idle(), 0);
  EXPECT_EQ(cache_.num_available(), 4);
}

TEST_F(PrefixCacheTest, takes_free_blocks_before_idle_ones_and_the_longest_idle_first) {
  const int32_t a = enter(kNoBlock, {1, 1});
  const int32_t b = enter(kNoBlock, {2, 2});
  const int32_t c = enter(kNoBlock, {3, 3});
  cache_.release(b);
  cache_.release(a);
  cache_.release(c);
  EXPECT_EQ(idle(), (std::vector<int32_t>{b, a, c}));
  cache_.retain(b);
  cache_.release(b);
  EXPECT_EQ(idle(), (std::vector<int32_t>{a, c, b})) << "to be used again is to be younger";
  cache_.take();
  cache_.take();
  EXPECT_EQ(cache_.num_cached(), 3);
  EXPECT_EQ(cache_.take(), a);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 1}), kNoBlock);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{3, 3}), c);
}

TEST_F(PrefixCacheTest, gives_no_block_when_all_have_owners) {
  for (int i = 0; i < 5; ++i) cache_.take();
  EXPECT_EQ(cache_.num_available(), 0);
  EXPECT_THROW(cache_.take(), Error);
}

TEST_F(PrefixCacheTest, refuses_to_evict_a_block_before_its_child) {
  const int32_t parent = enter(kNoBlock, {1, 2});
  const int32_t child = enter(parent, {3, 4});
  cache_.release(parent);
  cache_.release(child);
  for (int i = 0; i < 3; ++i) cache_.take();
  EXPECT_THROW(cache_.take(), Error) << "released in the wrong order";
  EXPECT_TRUE(cache_.is_cached(parent));
}

TEST_F(PrefixCacheTest, evicts_the_deepest_of_a_chain_released_in_order) {
  const int32_t parent = enter(kNoBlock, {1, 2});
  const int32_t child = enter(parent, {3, 4});
  cache_.release(child);
  cache_.release(parent);
  for (int i = 0; i < 3; ++i) cache_.take();
  EXPECT_EQ(cache_.take(), child);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}), parent);
  EXPECT_EQ(cache_.take(), parent);
  EXPECT_EQ(cache_.num_cached(), 0);
}

TEST_F(PrefixCacheTest, does_not_find_what_a_block_held_before) {
  const int32_t old = enter(kNoBlock, {1, 2});
  cache_.release(old);
  for (int i = 0; i < 4; ++i) cache_.take();
  ASSERT_EQ(cache_.take(), old);
  EXPECT_FALSE(cache_.is_cached(old));
  EXPECT_EQ(cache_.insert(kNoBlock, old, Tokens{5, 6}), old);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{1, 2}), kNoBlock);
  EXPECT_EQ(cache_.find(kNoBlock, Tokens{5, 6}), old);
}

TEST_F(PrefixCacheTest, lists_what_its_table_leads_to) {
  const int32_t first = enter(kNoBlock, {1, 2});
  const int32_t second = enter(first, {3, 4});
  std::vector<CachedBlock> cached;
  cache_.list_cached(cached);
  ASSERT_EQ(cached.size(), 2u);
  for (const CachedBlock& block : cached) {
    EXPECT_EQ(block.found, block.block);
    EXPECT_EQ(block.parent, block.block == second ? first : kNoBlock);
    EXPECT_EQ(Tokens(block.tokens.begin(), block.tokens.end()),
              block.block == second ? (Tokens{3, 4}) : (Tokens{1, 2}));
  }
}

TEST_F(PrefixCacheTest, refuses_blocks_that_cannot_be_entered) {
  const int32_t block = cache_.take();
  const int32_t plain = cache_.take();
  EXPECT_THROW(cache_.insert(kNoBlock, block, Tokens{1}), Error) << "not full";
  EXPECT_THROW(cache_.insert(plain, block, Tokens{1, 2}), Error) << "its parent is not cached";
  cache_.release(plain);
  EXPECT_THROW(cache_.insert(kNoBlock, plain, Tokens{1, 2}), Error) << "nobody owns it";
  cache_.insert(kNoBlock, block, Tokens{1, 2});
  EXPECT_THROW(cache_.insert(kNoBlock, block, Tokens{3, 4}), Error) << "entered already";
  EXPECT_THROW(cache_.find(kNoBlock, Tokens{1}), Error);
  EXPECT_THROW(cache_.find(plain, Tokens{1, 2}), Error);
  EXPECT_THROW(PrefixCache(pool_, 0, 0), Error);
}

/// With one bucket per block many buckets are shared, so only the full comparison tells their blocks apart.
TEST(PrefixCacheCollisions, never_answer_with_other_tokens) {
  constexpr int32_t kBlocks = 64;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    BlockPool pool(kBlocks);
    PrefixCache cache(pool, 1, seed);
    std::vector<int32_t> blocks;
    for (int32_t token = 0; token < kBlocks; ++token) {
      const int32_t parent = token % 2 == 0 ? kNoBlock : blocks.back();
      blocks.push_back(cache.insert(parent, cache.take(), Tokens{token}));
    }
    for (int32_t token = 0; token < kBlocks; ++token) {
      const auto index = static_cast<size_t>(token);
      const int32_t parent = token % 2 == 0 ? kNoBlock : blocks[index - 1];
      EXPECT_EQ(cache.find(parent, Tokens{token}), blocks[index]);
      EXPECT_EQ(cache.find(parent, Tokens{token + kBlocks}), kNoBlock);
      EXPECT_EQ(cache.find(blocks[index], Tokens{token}), kNoBlock);
    }
  }
}

}  // namespace
}  // namespace quire
