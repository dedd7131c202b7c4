#include "sched/scheduler.h"

#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

class SchedulerBudget : public SchedulerFixture {};
class SchedulerAdmission : public SchedulerFixture {};

TEST_F(SchedulerBudget, plans_nothing_without_sequences) {
  EXPECT_EQ(step(), Shares{});
  EXPECT_EQ(step(), Shares{}) << "an empty step is launched and settled like any other";
}

TEST_F(SchedulerBudget, computes_a_prompt_at_once_if_it_can_then_one_token_a_step) {
  add(1, 10);
  EXPECT_EQ(step(), (Shares{{1, 0, 10, true}}));
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 10, 1, true}}));
}

TEST_F(SchedulerBudget, computes_a_long_prompt_in_chunks_of_which_only_the_last_samples) {
  config_.max_num_batched_tokens = 7;
  add(1, 20);
  EXPECT_EQ(step(), (Shares{{1, 0, 7, false}}));
  EXPECT_EQ(blocks_of(1).size(), 2u) << "blocks are taken for this step's tokens only";
  EXPECT_EQ(step(), (Shares{{1, 7, 7, false}}));
  EXPECT_EQ(step(), (Shares{{1, 14, 6, true}}));
}

TEST_F(SchedulerBudget, mixes_decode_with_a_chunk_of_the_next_prompt) {
  config_.max_num_batched_tokens = 16;
  add(1, 6);
  add(2, 30);
  EXPECT_EQ(step(), (Shares{{1, 0, 6, true}, {2, 0, 10, false}}));
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 6, 1, true}, {2, 10, 15, false}}));
  append_to_all();
  add(3, 5);
  EXPECT_EQ(step(), (Shares{{1, 7, 1, true}, {2, 25, 5, true}, {3, 0, 5, true}}));
}

TEST_F(SchedulerBudget, leaves_a_quarter_to_prompts_and_lets_all_others_decode) {
  config_.max_num_batched_tokens = 8;
  for (SequenceId id = 0; id < 6; ++id) add(id, 1);
  step();
  append_to_all();
  add(6, 30);
  EXPECT_EQ(step().size(), 6u);
  EXPECT_FALSE(runs(6)) << "three quarters of 8 sequences run at a time";
  remove(0);
  append_to_all();
  const auto shares = step();
  ASSERT_EQ(shares.size(), 6u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(shares[i].num_tokens, 1) << "decode goes on";
  EXPECT_EQ(shares[5], (Share{6, 0, 3, false})) << "and the prompt moves";
}

TEST_F(SchedulerBudget, of_one_token_serves_one_sequence_after_the_other) {
  config_.max_num_batched_tokens = 1;
  add(1, 2);
  add(2, 1);
  EXPECT_EQ(step(), (Shares{{1, 0, 1, false}}));
  EXPECT_EQ(step(), (Shares{{1, 1, 1, true}}));
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 0, 1, true}}));
}

TEST_F(SchedulerBudget, passes_over_a_sequence_until_a_token_is_appended) {
  add(1, 4);
  add(2, 4);
  step();
  scheduler().append(2, 7);
  EXPECT_EQ(step(), (Shares{{2, 4, 1, true}}));
  scheduler().append(1, 7);
  EXPECT_EQ(step(), (Shares{{1, 4, 1, true}}));
}

TEST_F(SchedulerBudget, goes_to_those_that_remain_when_a_sequence_is_removed_in_the_middle_of_a_step) {
  add(1, 4);
  add(2, 4);
  plan();
  remove(1);
  commit();
  EXPECT_FALSE(scheduler().contains(1));
  EXPECT_EQ(scheduler().sequence(2).num_computed, 4);
  append_to_all();
  plan();
  remove(2);
  add(3, 4);
  EXPECT_EQ(step(), (Shares{{3, 0, 4, true}})) << "a step whose sequences are all gone need not be launched";
}

TEST_F(SchedulerAdmission, is_in_order_of_arrival_and_lets_nobody_overtake) {
  config_.num_blocks = 10;
  add(1, 12);
  step();
  add(2, 30);
  add(3, 1);
  EXPECT_EQ(step(), Shares{}) << "2 does not fit, and 3, which would, is behind it";
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 0, 30, true}, {3, 0, 1, true}}));
}

TEST_F(SchedulerAdmission, stops_at_max_num_seqs) {
  config_.max_num_seqs = 2;
  for (SequenceId id = 1; id <= 3; ++id) add(id, 4);
  EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(scheduler().num_running(), 2);
  EXPECT_EQ(scheduler().num_waiting(), 1);
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 0, 4, true}}));
}

TEST_F(SchedulerAdmission, keeps_one_block_free_for_running_sequences) {
  config_.num_blocks = 10;
  add(1, 16);
  step();
  add(2, 24);
  EXPECT_EQ(step(), Shares{}) << "it would take the last of the 6 blocks that are left";
  remove(2);
  add(3, 20);
  EXPECT_EQ(step(), (Shares{{3, 0, 20, true}}));
}

TEST_F(SchedulerAdmission, keeps_a_hundredth_of_a_large_pool_free_for_running_sequences) {
  config_ = {.block_size = 1, .num_blocks = 400, .max_num_batched_tokens = 1000, .max_model_len = 400};
  add(1, 200);
  step();
  add(2, 197);
  EXPECT_EQ(step(), Shares{});
  remove(2);
  add(3, 196);
  EXPECT_EQ(step(), (Shares{{3, 0, 196, true}}));
}

TEST_F(SchedulerAdmission, is_for_all_tokens_of_a_prompt_even_if_they_are_computed_in_chunks) {
  config_.num_blocks = 10;
  config_.max_num_batched_tokens = 20;
  add(1, 16);
  add(2, 24);
  EXPECT_EQ(step(), (Shares{{1, 0, 16, true}})) << "4 more tokens of 2 could be computed, but not all";
  remove(2);
  add(3, 20);
  EXPECT_EQ(step(), (Shares{{3, 0, 20, true}}));
}

TEST_F(SchedulerAdmission, leaves_a_block_for_every_fork_that_will_follow) {
  config_.num_blocks = 10;
  add(1, 16);
  step();
  add(2, 10, 4);
  EXPECT_EQ(step(), Shares{}) << "3 blocks, 3 of forks and one free are more than 6";
  remove(2);
  add(3, 10, 3);
  EXPECT_EQ(step(), (Shares{{3, 0, 10, true}}));
}

TEST_F(SchedulerAdmission, lets_a_lone_sequence_have_every_block) {
  config_.num_blocks = 10;
  add(1, 39);
  EXPECT_EQ(step(), (Shares{{1, 0, 39, true}}));
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 39, 1, true}}));
  EXPECT_EQ(scheduler().num_free_blocks(), 0);
}

TEST_F(SchedulerAdmission, needs_places_for_all_the_forks_that_will_follow) {
  config_.max_num_seqs = 4;
  add(1, 4);
  add(2, 4, 4);
  EXPECT_EQ(step(), (Shares{{1, 0, 4, true}}));
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 0, 4, true}}));
  add(3, 4);
  EXPECT_EQ(step(), Shares{}) << "all places are reserved";
  scheduler().append(2, 7);
  EXPECT_EQ(step(), (Shares{{2, 4, 1, true}, {3, 0, 4, true}})) << "the first append gives them up";
}

TEST_F(SchedulerAdmission, lets_a_group_larger_than_the_budget_run_alone) {
  config_.max_num_batched_tokens = 4;
  add(1, 2);
  add(2, 2, 8);
  EXPECT_EQ(step(), (Shares{{1, 0, 2, true}}));
  remove(1);
  EXPECT_EQ(step(), (Shares{{2, 0, 2, true}}));
  for (SequenceId child = 3; child < 10; ++child) scheduler().fork(2, child);
  append_to_all();
  EXPECT_EQ(step().size(), 4u);
  EXPECT_EQ(step().size(), 4u) << "those that were left over";
  EXPECT_EQ(step(), Shares{});
}

}  // namespace
}  // namespace quire
