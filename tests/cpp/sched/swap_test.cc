// Preemption by swapping out: the sequences of a request leave for the host together and come back together.
#include <algorithm>

#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

class SchedulerSwap : public SchedulerFixture {
 protected:
  SchedulerSwap() {
    config_.num_blocks = 8;
    config_.num_swap_blocks = 8;
    config_.max_model_len = 32;
    config_.enable_prefix_caching = false;
  }

  void fork(SequenceId parent, SequenceId child) {
    scheduler().fork(parent, child);
    check();
  }

  void append_to_group() {
    scheduler().append(2, 7);
    scheduler().append(3, 8);
    check();
  }

  /// Sequence 1 with a prompt of 8 tokens, the group of 2 and 3 with one of 6, and some tokens more of each.
  void start(int num_tokens) {
    add(1, 8);
    add(2, 6, 2);
    step();
    fork(2, 3);
    for (int token = 0; token < num_tokens; ++token) {
      scheduler().append(1, 7);
      append_to_group();
      step();
    }
  }

  /// All blocks are in use: 1 has computed 12 tokens and fills three; 2 and 3 have computed 10, share their first block
  /// and have two more each.
  void fill() {
    start(4);
    ASSERT_EQ(scheduler().sequence(1).num_computed, 12);
    ASSERT_EQ(scheduler().sequence(3).num_computed, 10);
    ASSERT_EQ(blocks_of(2)[0], blocks_of(3)[0]);
    ASSERT_EQ(scheduler().num_free_blocks(), 0);
  }

  /// And 1 needs one block more.
  void overflow() {
    fill();
    scheduler().append(1, 7);
    append_to_group();
    EXPECT_EQ(step(), (Shares{{1, 12, 1, true}}));
  }
};

TEST_F(SchedulerSwap, takes_all_sequences_of_a_request_and_moves_what_they_share_once) {
  fill();
  const std::vector<int32_t> two = blocks_of(2), three = blocks_of(3);
  scheduler().append(1, 7);
  append_to_group();
  EXPECT_EQ(plan(), (Shares{{1, 12, 1, true}}));
  EXPECT_EQ(status(2), SequenceStatus::kSwapped);
  EXPECT_EQ(status(3), SequenceStatus::kSwapped);
  EXPECT_EQ(scheduler().num_swapped(), 2);
  EXPECT_EQ(scheduler().num_waiting(), 0);
  EXPECT_EQ(scheduler().stats().num_preemptions, 2);
  EXPECT_EQ(scheduler().stats().num_swap_preemptions, 2);
  EXPECT_EQ(swap_out_.size(), 5u);
  EXPECT_EQ(scheduler().num_free_swap_blocks(), 3);
  EXPECT_EQ(blocks_of(2)[0], blocks_of(3)[0]) << "still shared";
  for (const auto& [before, id] : {std::pair(two, 2), std::pair(three, 3)}) {
    for (size_t i = 0; i < before.size(); ++i) {
      const auto move = std::ranges::find(swap_out_, before[i], &BlockCopy::from);
      ASSERT_NE(move, swap_out_.end());
      EXPECT_EQ(move->to, blocks_of(static_cast<SequenceId>(id))[i]);
    }
  }
}

TEST_F(SchedulerSwap, brings_them_back_as_they_were_and_before_anything_new) {
  overflow();
  add(4, 1);
  scheduler().append(1, 7);
  EXPECT_EQ(step(), (Shares{{1, 13, 1, true}})) << "there is room for 4, but not for 2 and 3, which come first";
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 10, 1, true}, {3, 10, 1, true}, {4, 0, 1, true}}));
  EXPECT_EQ(swap_in_.size(), 5u);
  EXPECT_EQ(blocks_of(2)[0], blocks_of(3)[0]);
  EXPECT_EQ(scheduler().num_free_swap_blocks(), 8);
  EXPECT_EQ(scheduler().num_swapped(), 0);
}

TEST_F(SchedulerSwap, waits_for_room_for_all_of_them_and_for_their_next_tokens) {
  config_.num_blocks = 12;
  config_.max_num_seqs = 3;
  add(1, 20);
  add(2, 6, 2);
  step();
  fork(2, 3);
  scheduler().append(1, 7);
  append_to_group();
  step();
  ASSERT_EQ(scheduler().num_free_blocks(), 3);
  while (scheduler().num_swapped() == 0) {
    append_to_all();
    step();
  }
  const int32_t needed = 5 + 2 + 1;  // theirs, one more for each, and one that admission leaves free
  while (scheduler().sequence(1).num_tokens() < 32) {
    ASSERT_LT(scheduler().num_free_blocks(), needed);
    append_to_all();
    step();
    ASSERT_EQ(scheduler().num_swapped(), 2);
  }
  remove(1);
  EXPECT_EQ(step().size(), 2u);
}

TEST_F(SchedulerSwap, is_not_for_a_sequence_that_is_alone) {
  fill();
  remove(3);
  scheduler().append(2, 7);
  step();
  while (runs(2)) {
    append_to_all();
    step();
  }
  EXPECT_EQ(status(2), SequenceStatus::kWaiting);
  EXPECT_EQ(scheduler().stats().num_swap_preemptions, 0);
}

TEST_F(SchedulerSwap, gives_way_to_computing_again_where_the_host_has_no_room) {
  config_.num_swap_blocks = 4;
  fill();
  scheduler().append(1, 7);
  append_to_group();
  EXPECT_EQ(step(), (Shares{{1, 12, 1, true}, {2, 10, 1, true}}));
  EXPECT_EQ(status(3), SequenceStatus::kWaiting);
  EXPECT_EQ(scheduler().stats().num_swap_preemptions, 0);
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 0, 11, true}}));
}

TEST_F(SchedulerSwap, is_not_for_the_first_arrived_which_gives_up_its_youngest) {
  add(1, 6, 3);
  step();
  fork(1, 2);
  fork(1, 3);
  while (scheduler().num_running() == 3) {
    append_to_all();
    step();
  }
  EXPECT_EQ(status(2), SequenceStatus::kWaiting) << "the first fork made is the youngest";
  EXPECT_TRUE(runs(1) && runs(3));
  EXPECT_EQ(scheduler().num_swapped(), 0);
}

TEST_F(SchedulerSwap, of_who_needs_the_block_leaves_nothing_to_compute_and_something_to_move) {
  fill();
  for (int token = 0; token < 2; ++token) {
    append_to_group();
    step();
  }
  append_to_group();
  EXPECT_EQ(plan(), Shares{}) << "1 waits for its token";
  EXPECT_EQ(swap_out_.size(), 5u);
  commit();
  scheduler().append(1, 7);
  EXPECT_EQ(step(), (Shares{{1, 12, 1, true}}));
  EXPECT_TRUE(swap_out_.empty());
}

TEST_F(SchedulerSwap, releases_the_hosts_blocks_of_what_is_removed) {
  overflow();
  remove(2);
  EXPECT_EQ(scheduler().num_free_swap_blocks(), 5) << "3 keeps what they share";
  remove(3);
  EXPECT_EQ(scheduler().num_free_swap_blocks(), 8);
  EXPECT_EQ(scheduler().num_swapped(), 0);
  remove(1);
  EXPECT_FALSE(scheduler().has_sequences());
}

TEST_F(SchedulerSwap, brings_back_who_is_left_of_a_request) {
  overflow();
  remove(2);
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 10, 1, true}}));
  EXPECT_EQ(swap_in_.size(), 3u);
}

TEST_F(SchedulerSwap, lets_in_alone_what_fills_the_pool_and_then_gives_up_the_youngest) {
  add(1, 1);
  add(2, 6, 3);
  step();
  fork(2, 3);
  fork(2, 4);
  while (scheduler().sequence(2).num_computed < 12) {
    append_to_group();
    scheduler().append(4, 9);
    if (scheduler().sequence(1).num_tokens() < 4) scheduler().append(1, 7);
    step();
  }
  ASSERT_EQ(scheduler().num_free_blocks(), 0);
  append_to_all();
  step();
  ASSERT_EQ(scheduler().num_swapped(), 3);
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 12, 1, true}, {4, 12, 1, true}})) << "all of them need a block more, and one is left";
  EXPECT_EQ(swap_in_.size(), 7u);
  EXPECT_EQ(status(3), SequenceStatus::kWaiting);
  EXPECT_EQ(scheduler().num_swapped(), 0);
}

TEST_F(SchedulerSwap, may_take_sequences_whose_last_token_is_not_known) {
  start(3);
  scheduler().append(1, 7);
  append_to_group();
  plan();
  launch();
  for (const SequenceId id : {1, 2, 3}) scheduler().append(id, -static_cast<int32_t>(id));
  EXPECT_EQ(plan(), (Shares{{1, 12, 1, true}}));
  EXPECT_EQ(status(2), SequenceStatus::kSwapped);
  EXPECT_EQ(scheduler().sequence(2).num_unknown, 1);
  launch();
  settle();
  EXPECT_EQ(scheduler().sequence(2).num_settled, 10) << "the step that it was in has been computed before it was moved";
  for (const SequenceId id : {1, 2, 3}) scheduler().resolve(id, 40 + static_cast<int32_t>(id));
  check();
  remove(1);
  EXPECT_EQ(plan(), (Shares{{2, 10, 1, true}, {3, 10, 1, true}}));
  EXPECT_EQ(scheduler().sequence(2).tokens.back(), 42);
  EXPECT_EQ(scheduler().sequence(3).tokens.back(), 43);
  launch();
  settle();
}

TEST_F(SchedulerSwap, keeps_poison_that_is_told_meanwhile_out_of_the_prefix_cache) {
  config_.enable_prefix_caching = true;
  start(3);
  scheduler().append(1, 7);
  append_to_group();
  plan();
  launch();
  scheduler().append(1, 7);
  append_to_group();
  plan();
  ASSERT_EQ(status(2), SequenceStatus::kSwapped);
  launch();
  settle({2});
  EXPECT_TRUE(scheduler().sequence(2).poisoned);
  EXPECT_FALSE(scheduler().sequence(3).poisoned);
  settle();
  remove(1);
  for (int token = 0; token < 2; ++token) {
    step();
    append_to_group();
  }
  step();
  EXPECT_EQ(scheduler().sequence(2).num_registered, 2) << "the third is full, of poison in part";
  EXPECT_EQ(scheduler().sequence(3).num_registered, 3);
}

TEST_F(SchedulerSwap, finds_what_the_prefix_cache_still_has) {
  config_.enable_prefix_caching = true;
  fill();
  const std::vector<int32_t> two = blocks_of(2), three = blocks_of(3);
  scheduler().append(1, 7);
  append_to_group();
  step();
  ASSERT_EQ(status(2), SequenceStatus::kSwapped);
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 10, 1, true}, {3, 10, 1, true}}));
  EXPECT_EQ(swap_in_.size(), 2u) << "the blocks that were not full";
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(blocks_of(2)[i], two[i]);
    EXPECT_EQ(blocks_of(3)[i], three[i]);
  }
}

TEST_F(SchedulerSwap, enters_into_the_prefix_cache_again_what_has_been_evicted) {
  config_.enable_prefix_caching = true;
  overflow();
  while (scheduler().sequence(1).num_tokens() < 32) {
    scheduler().append(1, 7);
    step();
  }
  remove(1);
  EXPECT_EQ(plan(), (Shares{{2, 10, 1, true}, {3, 10, 1, true}}));
  EXPECT_EQ(swap_in_.size(), 5u);
  EXPECT_EQ(scheduler().sequence(2).num_registered, 2);
  EXPECT_EQ(scheduler().sequence(3).num_registered, 2);
}

}  // namespace
}  // namespace quire
