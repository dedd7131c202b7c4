#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

class SchedulerPreemption : public SchedulerFixture {
 protected:
  SchedulerPreemption() {
    config_.num_blocks = 6;
    config_.max_model_len = 24;
    config_.enable_prefix_caching = false;
  }

  /// Three sequences with all tokens computed, and one block left.
  void fill() {
    add(1, 8);
    add(2, 4);
    add(3, 7);
    while (scheduler().num_running() < 3 || scheduler().sequence(3).num_pending() > 0) step();
    ASSERT_EQ(scheduler().num_free_blocks(), 1);
  }
};

TEST_F(SchedulerPreemption, takes_the_youngest_which_waits_first_in_line) {
  fill();
  append_to_all();
  add(4, 1);
  EXPECT_EQ(step(), (Shares{{1, 8, 1, true}, {2, 4, 1, true}})) << "1 gets the free block, 2 one of 3's";
  EXPECT_EQ(scheduler().stats().num_preemptions, 1);
  EXPECT_FALSE(runs(3));
  EXPECT_EQ(scheduler().num_free_blocks(), 1);
  EXPECT_EQ(step(), Shares{}) << "3, which needs two blocks, comes before 4, which needs one";
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 0, 8, true}, {4, 0, 1, true}}));
}

TEST_F(SchedulerPreemption, is_not_undone_in_the_same_step) {
  config_.enable_prefix_caching = true;
  config_.num_blocks = 9;
  add(1, 8);
  for (const SequenceId id : {2, 3}) scheduler().add(id, tokens_from(500, 9), true);
  plan();
  commit({3});  // so that 3 keeps blocks of its own for what 2 has in the cache
  for (int32_t num_tokens = 8; num_tokens < 12; ++num_tokens) {
    scheduler().append(1, 7);
    EXPECT_EQ(step(), (Shares{{1, num_tokens, 1, true}}));
  }
  ASSERT_EQ(scheduler().num_free_blocks(), 0);
  scheduler().append(1, 7);
  EXPECT_EQ(step(), (Shares{{1, 12, 1, true}}));
  EXPECT_EQ(scheduler().num_free_blocks(), 2) << "3 would fit, because it could share two blocks with 2";
  EXPECT_EQ(step(), (Shares{{3, 8, 1, true}}));
}

TEST_F(SchedulerPreemption, computes_prompt_and_output_again_as_one_prompt) {
  fill();
  append_to_all();
  step();
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 0, 8, true}})) << "7 of the prompt and one generated";
  append_to_all();
  EXPECT_EQ(step(), (Shares{{2, 5, 1, true}, {3, 8, 1, true}}));
}

TEST_F(SchedulerPreemption, computes_them_again_in_chunks) {
  config_.max_num_batched_tokens = 6;
  fill();
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 8, 1, true}, {2, 4, 1, true}}));
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 0, 6, false}}));
  EXPECT_EQ(step(), (Shares{{3, 6, 2, true}}));
}

TEST_F(SchedulerPreemption, takes_the_sequence_itself_if_it_is_the_youngest) {
  add(1, 9);
  add(2, 7);
  step();
  for (int32_t num_tokens = 8; num_tokens <= 12; ++num_tokens) {
    scheduler().append(2, 7);
    EXPECT_EQ(step(), (Shares{{2, num_tokens - 1, 1, true}}));
  }
  scheduler().append(2, 7);
  EXPECT_EQ(step(), Shares{}) << "a fourth block for 2 is not there";
  EXPECT_TRUE(runs(1));
  EXPECT_FALSE(runs(2));
}

TEST_F(SchedulerPreemption, never_takes_the_first_arrived_so_that_all_end_in_order) {
  for (SequenceId id = 1; id <= 4; ++id) add(id, 3);
  std::vector<SequenceId> ended;
  for (int steps = 0; ended.size() < 4; ++steps) {
    ASSERT_LT(steps, 4 * 24);
    step();
    for (SequenceId id = 1; id <= 4; ++id) {
      if (!scheduler().contains(id) || scheduler().sequence(id).num_tokens() < 24) continue;
      if (scheduler().sequence(id).num_pending() > 0) continue;
      remove(id);
      ended.push_back(id);
    }
    append_to_all();
  }
  EXPECT_EQ(ended, (std::vector<SequenceId>{1, 2, 3, 4}));
  EXPECT_GT(scheduler().stats().num_preemptions, 0);
  EXPECT_EQ(scheduler().num_free_blocks(), 6);
}

TEST_F(SchedulerPreemption, leaves_full_blocks_in_the_prefix_cache_to_be_found_again) {
  config_.enable_prefix_caching = true;
  fill();
  append_to_all();
  step();
  ASSERT_FALSE(runs(3));
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 4, 4, true}})) << "one of its blocks was full";
  EXPECT_EQ(scheduler().sequence(3).num_cached, 0) << "at first admission it was not there";
  EXPECT_EQ(scheduler().stats().num_cached_tokens, 0);
}

TEST_F(SchedulerPreemption, does_not_make_a_sequence_use_the_cache_against_its_will) {
  config_.enable_prefix_caching = true;
  add(1, 8);
  add(2, 4);
  scheduler().add(3, tokens_from(3000, 7), false);
  step();
  append_to_all();
  step();
  ASSERT_FALSE(runs(3));
  remove(1);
  EXPECT_EQ(step(), (Shares{{3, 0, 8, true}}));
}

}  // namespace
}  // namespace quire
