// Steps that are planned before the results of the one before them are there.
#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

class SchedulerAhead : public SchedulerFixture {
 protected:
  /// Plan and launch a step, and give every sequence that samples a token that is not known yet.
  std::vector<Share> launch_next() {
    const auto shares = plan();
    launch();
    for (size_t i = 0; i < shares.size(); ++i) {
      if (shares[i].samples) append(shares[i].id, -1 - static_cast<int32_t>(i));
    }
    return shares;
  }

  void append(SequenceId id, int32_t token) {
    scheduler().append(id, token);
    check();
  }

  void resolve(SequenceId id, int32_t token) {
    scheduler().resolve(id, token);
    check();
  }

  int32_t num_cached_blocks() {
    check();
    return snapshot_.num_cached_blocks;
  }
};

TEST_F(SchedulerAhead, a_step_names_the_token_of_the_one_before_it_as_it_was_appended) {
  add(1, 4);
  launch_next();
  const StepPlan& plan = scheduler().plan();
  ASSERT_EQ(plan.sequences.size(), 1u);
  EXPECT_EQ(plan.sequences[0].tokens.back(), -1);
  EXPECT_EQ(plan.sequences[0].start, 4);
  EXPECT_TRUE(plan.sequences[0].samples);
  launch();
  settle();
  append(1, -5);
  resolve(1, 7);
  EXPECT_EQ(scheduler().sequence(1).tokens[4], 7);
  EXPECT_EQ(scheduler().sequence(1).tokens[5], -5);
}

TEST_F(SchedulerAhead, a_sequence_whose_last_token_is_on_its_way_is_passed_over) {
  add(1, 4);
  add(2, 4);
  plan();
  launch();
  append(2, -2);
  EXPECT_EQ(plan(), (Shares{{2, 4, 1, true}}));
  launch();
  settle();
  remove(1);
  resolve(2, 7);
  EXPECT_EQ(plan(), Shares{}) << "now it is 2 that waits";
}

TEST_F(SchedulerAhead, blocks_enter_the_prefix_cache_when_their_step_is_settled) {
  add(1, 7);
  launch_next();
  launch_next();
  EXPECT_EQ(num_cached_blocks(), 0) << "two blocks are full, and nobody knows with what";
  settle();
  EXPECT_EQ(num_cached_blocks(), 1) << "the second one holds a token that is not known";
  resolve(1, 7);
  settle();
  EXPECT_EQ(num_cached_blocks(), 2);
  resolve(1, 8);
}

TEST_F(SchedulerAhead, poison_is_kept_out_even_if_the_next_step_is_on_its_way) {
  config_.max_num_batched_tokens = 4;
  add(1, 12);
  launch_next();
  launch_next();
  settle();
  launch_next();
  settle({1});
  EXPECT_EQ(num_cached_blocks(), 1);
  settle();
  EXPECT_EQ(num_cached_blocks(), 1);
}

TEST_F(SchedulerAhead, forks_made_while_a_step_is_on_its_way_share_its_poison_and_nothing_later) {
  config_.max_num_batched_tokens = 8;
  add(1, 11, 2);
  launch_next();
  plan();
  launch();
  scheduler().fork(1, 2);
  check();
  append(1, -1);
  append(2, -2);
  settle({1});
  EXPECT_EQ(num_cached_blocks(), 0) << "2 shares the blocks of 1";
  EXPECT_TRUE(scheduler().sequence(2).poisoned);
}

TEST_F(SchedulerAhead, poison_behind_a_fork_is_the_parents_alone) {
  add(1, 8, 2);
  plan();
  launch();
  scheduler().fork(1, 2);
  check();
  append(1, -1);
  append(2, -2);
  launch_next();
  settle();
  EXPECT_EQ(num_cached_blocks(), 2);
  resolve(1, 7);
  resolve(2, 7);
  settle({1});
  EXPECT_FALSE(scheduler().sequence(2).poisoned);
}

TEST_F(SchedulerAhead, a_sequence_that_ends_leaves_its_next_step_to_itself) {
  add(1, 8);
  add(2, 3);
  launch_next();
  launch_next();
  settle();
  remove(1);
  resolve(2, 7);
  add(3, 40 - 1);
  EXPECT_EQ(launch_next(), (Shares{{2, 4, 1, true}, {3, 0, 39, true}})) << "in blocks that step 2 still writes to";
  settle();
  resolve(2, 7);
  settle();
  EXPECT_EQ(scheduler().sequence(2).num_settled, 5);
}

TEST_F(SchedulerAhead, a_preempted_sequence_gets_its_token_while_it_waits) {
  config_.num_blocks = 5;
  config_.max_model_len = 20;
  add(1, 8);
  add(2, 8);
  plan();
  launch();
  append(1, -1);
  append(2, -2);
  EXPECT_EQ(plan(), (Shares{{1, 8, 1, true}}));
  EXPECT_FALSE(runs(2));
  launch();
  settle();
  EXPECT_EQ(num_cached_blocks(), 2) << "those of 1: what 2 has computed may be overwritten";
  resolve(1, 7);
  resolve(2, 9);
  EXPECT_EQ(scheduler().sequence(2).tokens.back(), 9);
  remove(1);
  EXPECT_EQ(launch_next(), (Shares{{2, 0, 9, true}}));
}

TEST_F(SchedulerAhead, a_sequence_that_outgrows_its_keys_may_start_again_with_an_unknown_token) {
  config_.recompute_length = 8;
  add(1, 8);
  launch_next();
  EXPECT_EQ(launch_next(), (Shares{{1, 0, 9, true}}));
  settle();
  EXPECT_EQ(scheduler().sequence(1).num_settled, 0) << "the step settled belongs to its old keys";
  EXPECT_EQ(num_cached_blocks(), 0);
  resolve(1, 7);
  settle();
  EXPECT_EQ(scheduler().sequence(1).num_settled, 9);
}

}  // namespace
}  // namespace quire
