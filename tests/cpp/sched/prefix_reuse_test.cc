#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

class SchedulerPrefixReuse : public SchedulerFixture {
 protected:
  void add_tokens(SequenceId id, std::vector<int32_t> tokens, bool use_prefix_cache = true) {
    scheduler().add(id, std::move(tokens), use_prefix_cache);
    check();
  }
};

TEST_F(SchedulerPrefixReuse, is_of_full_blocks_only) {
  add_tokens(1, tokens_from(0, 10));
  step();
  add_tokens(2, tokens_from(0, 12));
  EXPECT_EQ(step(), (Shares{{2, 8, 4, true}}));
  EXPECT_EQ(blocks_of(2)[0], blocks_of(1)[0]);
  EXPECT_EQ(blocks_of(2)[1], blocks_of(1)[1]);
  EXPECT_NE(blocks_of(2)[2], blocks_of(1)[2]);
  EXPECT_EQ(scheduler().sequence(2).num_cached, 8);
  EXPECT_EQ(scheduler().stats().num_cached_tokens, 8);
}

TEST_F(SchedulerPrefixReuse, leaves_at_least_one_token_to_compute) {
  add_tokens(1, tokens_from(0, 8));
  step();
  add_tokens(2, tokens_from(0, 8));
  EXPECT_EQ(step(), (Shares{{2, 4, 4, true}})) << "in whole blocks";
}

TEST_F(SchedulerPrefixReuse, ends_where_tokens_differ) {
  auto tokens = tokens_from(0, 13);
  add_tokens(1, tokens);
  step();
  tokens[6] = 999;
  add_tokens(2, tokens);
  EXPECT_EQ(step(), (Shares{{2, 4, 9, true}})) << "the third block is equal, but what is before it is not";
}

TEST_F(SchedulerPrefixReuse, finds_prompt_and_output_of_sequences_that_have_ended) {
  add_tokens(1, tokens_from(0, 6));
  for (int token = 0; token < 3; ++token) {
    step();
    append_to_all();
  }
  remove(1);
  EXPECT_EQ(scheduler().num_free_blocks(), 100) << "cached blocks that nobody owns count as free";
  auto tokens = tokens_from(0, 6);
  tokens.insert(tokens.end(), {7, 7, 7});
  add_tokens(2, tokens);
  EXPECT_EQ(step(), (Shares{{2, 8, 1, true}}));
}

TEST_F(SchedulerPrefixReuse, can_be_declined_by_a_sequence_and_switched_off) {
  add_tokens(1, tokens_from(0, 9));
  step();
  add_tokens(2, tokens_from(0, 9), false);
  EXPECT_EQ(step(), (Shares{{2, 0, 9, true}}));
  EXPECT_EQ(blocks_of(2)[0], blocks_of(1)[0]) << "afterwards it shares what it has in common";

  SchedulerConfig config = config_;
  config.enable_prefix_caching = false;
  Scheduler without(config);
  for (SequenceId id = 1; id <= 2; ++id) {
    without.add(id, tokens_from(0, 9), true);
    EXPECT_EQ(without.plan().sequences.at(0).start, 0);
    without.launched();
    without.settle({});
    without.remove(id);
  }
}

TEST_F(SchedulerPrefixReuse, joins_equal_blocks_computed_in_one_step) {
  add_tokens(1, tokens_from(0, 9));
  add_tokens(2, tokens_from(0, 9));
  EXPECT_EQ(step(), (Shares{{1, 0, 9, true}, {2, 0, 9, true}}));
  EXPECT_EQ(blocks_of(1)[0], blocks_of(2)[0]);
  EXPECT_EQ(blocks_of(1)[1], blocks_of(2)[1]);
  EXPECT_EQ(scheduler().num_free_blocks(), 96);
}

TEST_F(SchedulerPrefixReuse, never_finds_a_block_of_a_poisoned_step_or_of_a_later_one) {
  config_.max_num_batched_tokens = 4;
  add_tokens(1, tokens_from(0, 16));
  plan();
  commit();
  plan();
  commit({1});
  plan();
  commit();
  remove(1);
  add_tokens(2, tokens_from(0, 16));
  EXPECT_EQ(plan(), (Shares{{2, 4, 4, false}})) << "what was computed before is good";
}

TEST_F(SchedulerPrefixReuse, does_not_mind_poison_of_a_neighbour) {
  add_tokens(1, tokens_from(0, 9));
  add_tokens(2, tokens_from(0, 9));
  plan();
  commit({1});
  EXPECT_NE(blocks_of(1)[0], blocks_of(2)[0]);
  remove(1);
  add_tokens(3, tokens_from(0, 9));
  EXPECT_EQ(step(), (Shares{{3, 8, 1, true}}));
  EXPECT_EQ(blocks_of(3)[0], blocks_of(2)[0]);
}

TEST_F(SchedulerPrefixReuse, loses_the_deepest_block_first_when_blocks_run_out) {
  config_.num_blocks = 10;
  add_tokens(1, tokens_from(0, 12));
  step();
  remove(1);
  add_tokens(2, tokens_from(500, 32));
  step();
  remove(2);
  add_tokens(3, tokens_from(0, 13));
  EXPECT_EQ(step(), (Shares{{3, 8, 5, true}})) << "one of three blocks has been used again";
}

TEST_F(SchedulerPrefixReuse, makes_room_for_a_prompt_that_would_not_fit_otherwise) {
  config_.num_blocks = 10;
  add_tokens(1, tokens_from(0, 28));
  step();
  add_tokens(2, tokens_from(100, 28));
  EXPECT_EQ(step(), Shares{});
  remove(2);
  add_tokens(3, tokens_from(0, 32));
  EXPECT_EQ(step(), (Shares{{3, 28, 4, true}}));
}

TEST_F(SchedulerPrefixReuse, does_not_take_idle_blocks_that_others_need) {
  config_.num_blocks = 10;
  add_tokens(1, tokens_from(0, 16));
  step();
  remove(1);
  add_tokens(2, tokens_from(500, 24));
  step();
  add_tokens(3, tokens_from(0, 16));
  EXPECT_EQ(step(), Shares{}) << "its blocks are cached, but they are also the last that can be taken";
}

}  // namespace
}  // namespace quire
