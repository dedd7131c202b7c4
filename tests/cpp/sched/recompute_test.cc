#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

using Shares = std::vector<Share>;

/// A model whose keys are computed in another way beyond 8 tokens.
class SchedulerRecompute : public SchedulerFixture {
 protected:
  SchedulerRecompute() { config_.recompute_length = 8; }
};

TEST_F(SchedulerRecompute, a_sequence_that_outgrows_its_keys_is_computed_again_from_its_first_token) {
  add(1, 7);
  EXPECT_EQ(step(), (Shares{{1, 0, 7, true}}));
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 7, 1, true}}));
  EXPECT_EQ(scheduler().sequence(1).key_set, 0);
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 0, 9, true}}));
  EXPECT_EQ(scheduler().sequence(1).key_set, 1);
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 9, 1, true}})) << "once only";
  EXPECT_EQ(scheduler().stats().num_preemptions, 0);
}

TEST_F(SchedulerRecompute, it_is_computed_again_in_chunks_beside_others) {
  config_.max_num_batched_tokens = 6;
  add(1, 8);
  while (scheduler().sequence(1).num_pending() > 0) step();
  append_to_all();
  add(2, 3);
  EXPECT_EQ(step(), (Shares{{1, 0, 6, false}}));
  EXPECT_EQ(step(), (Shares{{1, 6, 3, true}, {2, 0, 3, true}}));
}

TEST_F(SchedulerRecompute, keys_of_two_sets_never_share_blocks) {
  const std::vector<int32_t> prompt = tokens_from(100, 7);
  scheduler().add(1, prompt, true);
  step();
  remove(1);
  scheduler().add(2, prompt, true, 1, 1);
  EXPECT_EQ(step(), (Shares{{2, 0, 7, true}})) << "the first block of 1 is in the cache, with other keys";
  remove(2);
  scheduler().add(3, prompt, true, 1, 1);
  EXPECT_EQ(step(), (Shares{{3, 4, 3, true}}));
  scheduler().add(4, prompt, true);
  EXPECT_EQ(step(), (Shares{{4, 4, 3, true}}));
}

TEST_F(SchedulerRecompute, forks_are_computed_again_one_by_one) {
  add(1, 8, 2);
  step();
  scheduler().fork(1, 2);
  append_to_all();
  EXPECT_EQ(step(), (Shares{{1, 0, 9, true}, {2, 0, 9, true}}));
}

}  // namespace
}  // namespace quire
