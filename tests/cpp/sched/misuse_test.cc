#include <functional>

#include "quire/error.h"
#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

class SchedulerMisuse : public SchedulerFixture {
 protected:
  /// The call raises kInternal and changes nothing that an invariant speaks of.
  void refuse(const char* what, const std::function<void()>& call) {
    try {
      call();
      ADD_FAILURE() << what << ": nothing was raised";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal) << what;
    }
    check();
  }
};

TEST_F(SchedulerMisuse, is_a_configuration_in_which_the_longest_sequence_could_never_run) {
  const SchedulerConfig good = config_;
  for (int32_t SchedulerConfig::* field :
       {&SchedulerConfig::block_size, &SchedulerConfig::num_blocks, &SchedulerConfig::max_num_seqs,
        &SchedulerConfig::max_num_batched_tokens, &SchedulerConfig::max_model_len}) {
    SchedulerConfig bad = good;
    bad.*field = 0;
    refuse("a zero", [&] { Scheduler{bad}; });
  }
  SchedulerConfig bad = good;
  bad.max_model_len = 401;
  refuse("longer than the pool", [&] { Scheduler{bad}; });
  bad.max_model_len = 400;
  EXPECT_NO_THROW(Scheduler{bad});
}

TEST_F(SchedulerMisuse, is_to_add_what_cannot_be_computed_or_told_apart) {
  add(1, 4);
  refuse("known id", [&] { scheduler().add(1, {1}, true); });
  refuse("no tokens", [&] { scheduler().add(2, {}, true); });
  refuse("no room for a token", [&] { scheduler().add(2, tokens_from(0, 40), true); });
  refuse("no place", [&] { scheduler().add(2, {1}, true, 0); });
  refuse("more places than there are", [&] { scheduler().add(2, {1}, true, 9); });
  EXPECT_FALSE(scheduler().contains(2));
}

TEST_F(SchedulerMisuse, is_to_plan_launch_or_settle_out_of_turn) {
  refuse("no plan", [&] { scheduler().launched(); });
  refuse("no step", [&] { scheduler().settle({}); });
  add(1, 4);
  plan();
  refuse("not launched", [&] { scheduler().plan(); });
  refuse("not launched", [&] { scheduler().settle({}); });
  launch();
  refuse("launched twice", [&] { scheduler().launched(); });
  EXPECT_EQ(scheduler().sequence(1).num_computed, 4);
  EXPECT_EQ(scheduler().sequence(1).num_settled, 0);
  scheduler().append(1, -1);
  plan();
  launch();
  refuse("two steps on their way", [&] { scheduler().plan(); });
  settle();
  scheduler().resolve(1, 7);
  settle();
  refuse("settled twice", [&] { scheduler().settle({}); });
  EXPECT_EQ(scheduler().sequence(1).num_settled, 5);
}

TEST_F(SchedulerMisuse, is_to_resolve_what_is_known) {
  refuse("unknown sequence", [&] { scheduler().resolve(1, 7); });
  add(1, 4);
  step();
  refuse("nothing to resolve", [&] { scheduler().resolve(1, 7); });
  scheduler().append(1, -3);
  refuse("no token", [&] { scheduler().resolve(1, -1); });
  plan();
  launch();
  refuse("a known token behind one that is not", [&] { scheduler().append(1, 7); });
  refuse("what the step before has sampled is not known", [&] { scheduler().settle({}); });
  scheduler().resolve(1, 7);
  EXPECT_EQ(scheduler().sequence(1).tokens.back(), 7);
  refuse("resolved twice", [&] { scheduler().resolve(1, 7); });
}

TEST_F(SchedulerMisuse, is_to_append_before_a_token_could_be_sampled) {
  refuse("unknown", [&] { scheduler().append(1, 7); });
  add(1, 39);
  refuse("waiting", [&] { scheduler().append(1, 7); });
  plan();
  refuse("not launched", [&] { scheduler().append(1, 7); });
  commit();
  scheduler().append(1, 7);
  refuse("twice", [&] { scheduler().append(1, 7); });
  step();
  refuse("longer than max_model_len", [&] { scheduler().append(1, 7); });
}

TEST_F(SchedulerMisuse, is_to_fork_before_or_after_the_end_of_the_prompt) {
  add(1, 4, 2);
  add(3, 4);
  refuse("waiting", [&] { scheduler().fork(1, 2); });
  plan();
  refuse("not launched", [&] { scheduler().fork(1, 2); });
  commit();
  refuse("unknown parent", [&] { scheduler().fork(4, 2); });
  refuse("known child", [&] { scheduler().fork(1, 3); });
  refuse("no place reserved", [&] { scheduler().fork(3, 4); });
  scheduler().fork(1, 2);
  refuse("one fork too many", [&] { scheduler().fork(1, 4); });
  refuse("fork of a fork", [&] { scheduler().fork(2, 4); });
  append_to_all();
  refuse("after an append", [&] { scheduler().fork(1, 4); });
}

TEST_F(SchedulerMisuse, is_to_ask_for_or_remove_what_is_not_there) {
  refuse("sequence", [&] { scheduler().sequence(1); });
  refuse("remove", [&] { scheduler().remove(1); });
}

}  // namespace
}  // namespace quire
