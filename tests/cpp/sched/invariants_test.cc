#include "sched/invariants.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "sched/scheduler_fixture.h"

namespace quire {
namespace {

/// A healthy scheduler, which each test damages in one place of the snapshot.
class InvariantsFixture : public SchedulerFixture {
 protected:
  /// Plan a step and take the snapshot, with sequences that can be changed.
  void take_plan() {
    plan_ = &scheduler().plan();
    check();
    const auto own = [this](std::vector<const Sequence*>& list) {
      for (const Sequence*& sequence : list) sequence = &sequences_.emplace_back(*sequence);
    };
    sequences_.reserve(snapshot_.running.size() + snapshot_.waiting.size());
    own(snapshot_.running);
    own(snapshot_.waiting);
  }

  void expect_violation_of(int rule) {
    const auto found = find_violation(snapshot_);
    expect_rule(found, rule);
  }

  void expect_violation_of(int rule, const StepPlan& plan) { expect_rule(find_violation(snapshot_, plan), rule); }

  const StepPlan* plan_ = nullptr;
  std::vector<Sequence> sequences_;

 private:
  void expect_rule(const std::optional<std::string>& found, int rule) {
    ASSERT_TRUE(found.has_value()) << "invariant " << rule << " was broken and nothing was said";
    EXPECT_TRUE(found->starts_with("invariant " + std::to_string(rule) + ":")) << *found;
  }
};

/// Sequences 1 and 2 share two cached blocks and run; 3 waits; two blocks of a removed sequence are idle.
class Invariants : public InvariantsFixture {
 protected:
  Invariants() {
    config_.num_blocks = 12;
    config_.max_num_seqs = 3;
    add(9, 8);
    step();
    remove(9);
    scheduler().add(1, tokens_from(0, 10), true);
    step();
    scheduler().add(2, tokens_from(0, 9), true);
    scheduler().add(3, tokens_from(300, 30), true);
    take_plan();
  }

  Sequence& one() { return sequences_[0]; }
  Sequence& two() { return sequences_[1]; }
  Sequence& three() { return sequences_[2]; }
  CachedBlock& cached(int32_t block) { return *std::ranges::find(snapshot_.cached, block, &CachedBlock::block); }
};

TEST_F(Invariants, hold_for_the_state_that_the_other_tests_damage) {
  EXPECT_EQ(find_violation(snapshot_), std::nullopt);
  EXPECT_EQ(find_violation(snapshot_, *plan_), std::nullopt);
  EXPECT_EQ(snapshot_.running.size(), 2u);
  EXPECT_EQ(snapshot_.waiting.size(), 1u);
  EXPECT_EQ(snapshot_.idle_blocks.size(), 2u);
  EXPECT_EQ(snapshot_.cached.size(), 4u);
  EXPECT_EQ(plan_->sequences.size(), 1u);
}

TEST_F(Invariants, notice_a_reference_without_owner) {
  ++snapshot_.references[static_cast<size_t>(one().blocks[0])];
  expect_violation_of(1);
}

TEST_F(Invariants, notice_an_owner_without_reference) {
  --snapshot_.references[static_cast<size_t>(one().blocks[0])];
  expect_violation_of(1);
}

TEST_F(Invariants, notice_a_block_twice_in_one_table) {
  one().blocks.replace(1, one().blocks[0]);
  expect_violation_of(1);
}

TEST_F(Invariants, notice_a_block_that_does_not_exist) {
  one().blocks.replace(1, 12);
  expect_violation_of(1);
}

TEST_F(Invariants, notice_a_lost_block) {
  snapshot_.free_blocks.pop_back();
  expect_violation_of(2);
}

TEST_F(Invariants, notice_a_block_that_is_free_twice) {
  snapshot_.free_blocks.back() = snapshot_.free_blocks.front();
  expect_violation_of(2);
}

TEST_F(Invariants, notice_a_free_block_in_use) {
  snapshot_.free_blocks.push_back(one().blocks[0]);
  expect_violation_of(2);
}

TEST_F(Invariants, notice_an_idle_block_that_is_not_cached) {
  snapshot_.idle_blocks.push_back(snapshot_.free_blocks.back());
  snapshot_.free_blocks.pop_back();
  expect_violation_of(3);
}

TEST_F(Invariants, notice_a_free_block_that_is_cached) {
  snapshot_.free_blocks.push_back(snapshot_.idle_blocks.back());
  snapshot_.idle_blocks.pop_back();
  expect_violation_of(3);
}

TEST_F(Invariants, notice_a_wrong_count_of_free_blocks) {
  ++snapshot_.num_free_blocks;
  expect_violation_of(3);
}

TEST_F(Invariants, notice_a_cached_block_that_is_not_found) {
  cached(one().blocks[1]).found = kNoBlock;
  expect_violation_of(4);
}

TEST_F(Invariants, notice_a_wrong_count_of_cached_blocks) {
  --snapshot_.num_cached_blocks;
  expect_violation_of(4);
}

TEST_F(Invariants, notice_a_parent_that_is_not_cached) {
  cached(one().blocks[1]).parent = snapshot_.free_blocks.front();
  expect_violation_of(5);
}

TEST_F(Invariants, notice_a_parent_without_its_childs_owners) {
  cached(one().blocks[1]).parent = snapshot_.idle_blocks.back();
  expect_violation_of(5);
}

TEST_F(Invariants, notice_a_parent_that_would_be_evicted_before_its_child) {
  std::ranges::reverse(snapshot_.idle_blocks);
  expect_violation_of(5);
}

TEST_F(Invariants, notice_content_of_another_sequence) {
  two().tokens[5] = 999;
  expect_violation_of(6);
}

TEST_F(Invariants, notice_blocks_out_of_order) {
  const int32_t first = one().blocks[0];
  one().blocks.replace(0, one().blocks[1]);
  one().blocks.replace(1, first);
  expect_violation_of(6);
}

TEST_F(Invariants, notice_a_cached_block_that_its_owner_does_not_know_of) {
  --one().num_registered;
  expect_violation_of(6);
}

TEST_F(Invariants, notice_a_forgotten_sequence) {
  ++snapshot_.num_known;
  expect_violation_of(7);
}

TEST_F(Invariants, notice_a_wrong_status) {
  three().status = SequenceStatus::kRunning;
  expect_violation_of(7);
}

TEST_F(Invariants, notice_a_waiting_sequence_that_arrived_before_a_running_one) {
  three().arrival = 0;
  expect_violation_of(8);
}

TEST_F(Invariants, notice_a_waiting_sequence_with_progress) {
  three().num_computed = 1;
  expect_violation_of(9);
}

TEST_F(Invariants, notice_progress_beyond_the_tokens) {
  ++one().num_computed;
  expect_violation_of(10);
}

TEST_F(Invariants, notice_computed_tokens_without_blocks) {
  one().tokens.resize(20);
  one().num_computed = 13;
  expect_violation_of(10);
}

TEST_F(Invariants, notice_a_sequence_that_is_too_long) {
  one().tokens.resize(41);
  expect_violation_of(10);
}

TEST_F(Invariants, notice_a_prompt_that_was_cached_to_its_end) {
  two().num_cached = 12;
  expect_violation_of(11);
}

TEST_F(Invariants, notice_a_registered_block_that_is_not_computed) {
  one().num_registered = 3;
  expect_violation_of(11);
}

TEST_F(Invariants, notice_places_that_are_not_given_back) {
  ++snapshot_.num_places;
  expect_violation_of(12);
}

TEST_F(Invariants, notice_more_places_than_there_are) {
  snapshot_.config.max_num_seqs = 1;
  expect_violation_of(12);
}

TEST_F(Invariants, notice_progress_that_no_step_makes) {
  one().num_settled = 9;
  expect_violation_of(18);
}

TEST_F(Invariants, notice_a_step_that_is_not_on_its_way) {
  one().num_settled = 9;
  one().settles[snapshot_.newest_step] = 10;
  expect_violation_of(18);
  snapshot_.num_in_flight = 1;
  EXPECT_EQ(find_violation(snapshot_), std::nullopt);
  std::swap(one().settles[0], one().settles[1]);
  expect_violation_of(18);
  snapshot_.num_in_flight = 3;
  expect_violation_of(18);
}

TEST_F(Invariants, notice_a_step_that_takes_progress_back) {
  snapshot_.num_in_flight = 1;
  one().settles[snapshot_.newest_step] = 10;
  expect_violation_of(18);
}

TEST_F(Invariants, notice_unknown_tokens_that_are_not_counted) {
  one().tokens.push_back(-1);
  snapshot_.num_in_flight = 1;
  expect_violation_of(19);
  one().num_unknown = 1;
  EXPECT_EQ(find_violation(snapshot_), std::nullopt);
  one().tokens.push_back(7);
  expect_violation_of(19);
}

TEST_F(Invariants, notice_an_unknown_token_among_the_settled) {
  one().tokens.back() = -1;
  one().num_unknown = 1;
  expect_violation_of(19);
}

TEST_F(Invariants, notice_more_unknown_tokens_than_steps) {
  for (int i = 0; i < 2; ++i) one().tokens.push_back(-1);
  one().num_unknown = 2;
  expect_violation_of(19);
}

TEST_F(Invariants, notice_a_plan_for_a_sequence_with_nothing_planned) {
  two().num_planned = 0;
  expect_violation_of(13, *plan_);
}

TEST_F(Invariants, notice_a_plan_that_leaves_a_gap) {
  StepPlan plan = *plan_;
  ++plan.sequences[0].start;
  expect_violation_of(13, plan);
}

TEST_F(Invariants, notice_a_plan_with_a_wrong_sum) {
  StepPlan plan = *plan_;
  ++plan.num_tokens;
  expect_violation_of(14, plan);
}

TEST_F(Invariants, notice_a_plan_beyond_the_budget) {
  snapshot_.config.max_num_batched_tokens = 0;
  expect_violation_of(14, *plan_);
}

TEST_F(Invariants, notice_a_plan_that_writes_to_a_shared_block) {
  ++snapshot_.references[static_cast<size_t>(two().blocks[2])];
  expect_violation_of(15, *plan_);
}

TEST_F(Invariants, notice_a_plan_that_writes_to_a_cached_block) {
  two().num_registered = 3;
  expect_violation_of(15, *plan_);
}

TEST_F(Invariants, notice_a_sequence_that_is_passed_over) {
  one().tokens.push_back(7);
  expect_violation_of(16, *plan_);
}

TEST_F(Invariants, notice_a_plan_of_nothing) {
  snapshot_.running.clear();
  expect_violation_of(16, StepPlan{});
}

TEST_F(Invariants, notice_a_copy_to_a_block_that_nobody_writes) {
  StepPlan plan = *plan_;
  plan.copies.push_back({.from = one().blocks[2], .to = snapshot_.free_blocks[0]});
  expect_violation_of(17, plan);
}

TEST_F(Invariants, notice_a_copy_from_a_block_that_is_copied_to) {
  StepPlan plan = *plan_;
  plan.copies.push_back({.from = one().blocks[2], .to = two().blocks[2]});
  EXPECT_EQ(find_violation(snapshot_, plan), std::nullopt);
  plan.copies.push_back({.from = two().blocks[2], .to = snapshot_.free_blocks[0]});
  expect_violation_of(17, plan);
}

/// Sequence 1 runs; 2 and its fork 3, which share a block, have just been swapped out; 4 waits.
class InvariantsOfSwapping : public InvariantsFixture {
 protected:
  InvariantsOfSwapping() {
    config_.num_blocks = 6;
    config_.num_swap_blocks = 6;
    config_.max_model_len = 24;
    add(1, 8);
    add(2, 6, 2);
    step();
    scheduler().fork(2, 3);
    for (int token = 0; token < 2; ++token) {
      append_to_all();
      step();
    }
    append_to_all();
    add(4, 20);
    take_plan();
  }

  Sequence& one() { return sequences_[0]; }
  Sequence& two() { return sequences_[1]; }
  Sequence& three() { return sequences_[2]; }
  Sequence& four() { return sequences_[3]; }
};

TEST_F(InvariantsOfSwapping, hold_for_the_state_that_the_other_tests_damage) {
  EXPECT_EQ(find_violation(snapshot_), std::nullopt);
  EXPECT_EQ(find_violation(snapshot_, *plan_), std::nullopt);
  EXPECT_EQ(snapshot_.num_swapped, 2);
  EXPECT_EQ(two().blocks[0], three().blocks[0]);
  EXPECT_EQ(plan_->swap_out.size(), 2u);
  EXPECT_EQ(four().status, SequenceStatus::kWaiting);
}

TEST_F(InvariantsOfSwapping, notice_a_reference_to_a_hosts_block_without_owner) {
  ++snapshot_.swap_references[static_cast<size_t>(two().blocks[0])];
  expect_violation_of(1);
}

TEST_F(InvariantsOfSwapping, notice_a_hosts_block_that_does_not_exist) {
  three().blocks.replace(1, 6);
  expect_violation_of(1);
}

TEST_F(InvariantsOfSwapping, notice_a_lost_block_of_the_host) {
  snapshot_.free_swap_blocks.pop_back();
  expect_violation_of(2);
}

TEST_F(InvariantsOfSwapping, notice_a_wrong_count_of_swapped_sequences) {
  --snapshot_.num_swapped;
  expect_violation_of(7);
}

TEST_F(InvariantsOfSwapping, notice_one_that_has_run_behind_one_that_has_not) {
  three().admitted = false;
  four().admitted = true;
  expect_violation_of(8);
}

TEST_F(InvariantsOfSwapping, notice_a_swapped_sequence_that_is_to_compute) {
  ++two().num_planned;
  expect_violation_of(10);
}

TEST_F(InvariantsOfSwapping, notice_a_swapped_sequence_without_its_blocks) {
  two().num_computed += 4;
  expect_violation_of(10);
}

TEST_F(InvariantsOfSwapping, notice_a_group_of_which_a_part_runs) {
  one().group = 2;
  expect_violation_of(20);
}

TEST_F(InvariantsOfSwapping, notice_a_group_that_is_not_together) {
  three().group = 7;
  EXPECT_EQ(find_violation(snapshot_), std::nullopt);
  Sequence fifth = two();
  fifth.blocks = {};
  fifth.num_computed = fifth.num_settled = fifth.num_registered = 0;
  fifth.arrival = three().arrival + 1;
  four().arrival = fifth.arrival + 1;
  snapshot_.waiting.insert(snapshot_.waiting.begin() + 2, &fifth);
  ++snapshot_.num_known;
  ++snapshot_.num_swapped;
  expect_violation_of(20);
}

TEST_F(InvariantsOfSwapping, notice_a_plan_that_swaps_both_out_and_in) {
  StepPlan plan = *plan_;
  plan.swap_in.push_back({.from = 0, .to = one().blocks[0]});
  expect_violation_of(21, plan);
}

TEST_F(InvariantsOfSwapping, notice_two_blocks_that_are_swapped_to_one) {
  StepPlan plan = *plan_;
  plan.swap_out[1].to = plan.swap_out[0].to;
  expect_violation_of(21, plan);
}

TEST_F(InvariantsOfSwapping, notice_a_block_that_is_swapped_out_to_nobody) {
  StepPlan plan = *plan_;
  plan.swap_out[0].to = snapshot_.free_swap_blocks[0];
  expect_violation_of(21, plan);
}

}  // namespace
}  // namespace quire
