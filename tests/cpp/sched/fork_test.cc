#include <algorithm>

#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

class SchedulerFork : public SchedulerFixture {
 protected:
  void fork(SequenceId parent, SequenceId child) {
    scheduler().fork(parent, child);
    check();
  }
};

TEST_F(SchedulerFork, shares_every_block_the_partial_one_included) {
  add(1, 6, 3);
  step();
  fork(1, 2);
  fork(1, 3);
  EXPECT_EQ(blocks_of(2), blocks_of(1));
  EXPECT_EQ(blocks_of(3), blocks_of(1));
  EXPECT_EQ(scheduler().num_free_blocks(), 98);
  EXPECT_EQ(scheduler().num_running(), 3);
  EXPECT_EQ(scheduler().sequence(2).tokens, scheduler().sequence(1).tokens);
  EXPECT_EQ(scheduler().sequence(2).num_prompt_tokens, 6);
}

TEST_F(SchedulerFork, copies_the_partial_block_for_all_but_the_last_writer) {
  add(1, 6, 3);
  step();
  fork(1, 2);
  fork(1, 3);
  const int32_t shared = blocks_of(1)[1];
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 6, 1, true}, {3, 6, 1, true}, {2, 6, 1, true}}));
  ASSERT_EQ(copies_.size(), 2u);
  for (const BlockCopy& copy : copies_) EXPECT_EQ(copy.from, shared);
  EXPECT_EQ(blocks_of(1)[1], copies_[0].to);
  EXPECT_EQ(blocks_of(3)[1], copies_[1].to);
  EXPECT_EQ(blocks_of(2)[1], shared);
  EXPECT_EQ(blocks_of(1)[0], blocks_of(2)[0]) << "full blocks stay shared";
  append_to_all();
  step();
  EXPECT_TRUE(copies_.empty());
}

TEST_F(SchedulerFork, copies_nothing_when_the_prompt_ends_with_a_block) {
  add(1, 8, 2);
  step();
  fork(1, 2);
  append_to_all();
  step();
  EXPECT_TRUE(copies_.empty());
  EXPECT_EQ(scheduler().num_free_blocks(), 96);
}

TEST_F(SchedulerFork, copies_nothing_for_the_last_that_is_left) {
  add(1, 6, 2);
  step();
  fork(1, 2);
  remove(1);
  append_to_all();
  EXPECT_EQ(step(), (Shares{{2, 6, 1, true}}));
  EXPECT_TRUE(copies_.empty());
  remove(2);
  EXPECT_EQ(scheduler().num_free_blocks(), 100);
}

TEST_F(SchedulerFork, works_without_the_prefix_cache) {
  config_.enable_prefix_caching = false;
  add(1, 6, 2);
  step();
  fork(1, 2);
  append_to_all();
  step();
  EXPECT_EQ(copies_.size(), 1u);
  EXPECT_EQ(blocks_of(1)[0], blocks_of(2)[0]);
}

TEST_F(SchedulerFork, is_younger_than_its_parent_and_older_than_what_was_added_after_that) {
  config_.num_blocks = 6;
  config_.max_model_len = 24;
  add(1, 4, 2);
  add(3, 4);
  step();
  fork(1, 2);
  append_to_all();
  EXPECT_EQ(step().size(), 3u);
  ASSERT_EQ(scheduler().num_free_blocks(), 1);
  for (int token = 0; token < 4; ++token) {
    append_to_all();
    step();
  }
  EXPECT_TRUE(runs(1));
  EXPECT_TRUE(runs(2));
  EXPECT_FALSE(runs(3)) << "it arrived last, although the fork was made later";
}

TEST_F(SchedulerFork, runs_at_once_even_if_an_earlier_fork_has_been_preempted) {
  config_.num_blocks = 4;
  config_.max_model_len = 16;
  add(1, 7, 3);
  step();
  fork(1, 2);
  scheduler().append(2, 7);
  for (int token = 0; token < 5; ++token) {
    step();
    if (runs(2)) scheduler().append(2, 7);
  }
  EXPECT_EQ(scheduler().sequence(2).num_tokens(), 13);
  step();
  ASSERT_FALSE(runs(2)) << "it has used all blocks";
  fork(1, 3);
  EXPECT_TRUE(runs(3));
}

}  // namespace
}  // namespace quire
